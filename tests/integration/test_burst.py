# SPDX-License-Identifier: Apache-2.0
"""A small burst on a real orchestrator and real agents: more models than places, and nobody sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import pytest
from benchmarks.burst.client import Answered, replay
from benchmarks.burst.cluster import BurstCluster
from benchmarks.burst.hardware import Hardware
from benchmarks.burst.models import model_name, write_artifacts
from benchmarks.burst.trace import Call

from serverlessllm.sdk.orchestrator import Client
from serverlessllm.wire.admin import PlacementDecision

NUM_MODELS = 5
HARDWARE = Hardware(
    num_nodes=2,
    num_seats=2,
    dram_models=3,
    model_bytes=2e9,
    nvme_bytes_per_s=10e9,
    device_bytes_per_s=10e9,
    max_batch=2,
    answer_tokens=20,
    prompt_tokens=20,
)
"""Five models, four seats: while all are called, some model always waits for another one's seat."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[BurstCluster]:
    artifacts = write_artifacts(tmp_path / "artifacts", HARDWARE, NUM_MODELS)
    with BurstCluster(tmp_path, HARDWARE, artifacts, max_replicas=1) as running:
        asyncio.run(running.prepare())
        yield running


def play(cluster: BurstCluster, calls: list[Call]) -> list[Answered]:
    return asyncio.run(replay(cluster.front.url, calls, HARDWARE))[0]


def loads(cluster: BurstCluster) -> list[PlacementDecision]:
    with Client(cluster.front.url) as client:
        return [decision for decision in client.decisions(10_000) if decision.kind == "wake"]


def test_burst_over_more_models_than_places_is_answered_whole_with_one_load_of_a_model_at_a_time(
    cluster: BurstCluster,
) -> None:
    rounds, models = range(12), range(NUM_MODELS)
    calls = [Call(0.25 * turn + 0.01 * model, model) for turn, model in product(rounds, models)]
    answers = play(cluster, calls)
    assert {answer.status for answer in answers} == {200}
    assert {(answer.is_whole, answer.num_tokens) for answer in answers} == {(True, HARDWARE.answer_tokens)}
    for model in models:
        mine = [
            each for each in loads(cluster) if each.model == model_name(model) and each.outcome == "ready"
        ]
        assert mine
        for earlier, later in pairwise(mine):
            assert earlier.wake_ms is not None
            assert earlier.decided_s + earlier.wake_ms / 1e3 <= later.decided_s + 0.1


def test_calls_that_waited_for_one_model_are_served_in_the_order_in_which_they_came(
    cluster: BurstCluster,
) -> None:
    calls = [Call(0.02 * number, 0) for number in range(12)]
    answers = play(cluster, calls)
    assert {answer.status for answer in answers} == {200}
    firsts = [answer.sent_s + answer.ttft_s for answer in answers]
    batch = HARDWARE.max_batch + 1  # one more is at hand
    for earlier, later in zip(firsts, firsts[batch:], strict=False):
        assert earlier < later
    assert len(loads(cluster)) == 1
