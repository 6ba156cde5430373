# SPDX-License-Identifier: Apache-2.0
"""Real weights, each feature once: SmolLM2-135M-Instruct through the whole platform."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from serverlessllm.sdk.stream import Chunk, Done, Progress, TimelineComment
from support.demo_model import demo_gguf, variant_sources
from support.platform import Platform, eventually

pytestmark = [pytest.mark.demo_model, pytest.mark.timeout(300)]

QUESTION = "What is the capital of France, and what is it known for?"
NUM_VARIANTS = 20
BUDGET_VARIANTS = 5
VARIANT_HELD_BYTES = 272 << 20
"""One variant's 257 MiB in whole extents of 16 MiB."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("demo")
    budget = str(BUDGET_VARIANTS * VARIANT_HELD_BYTES)
    with Platform(home, arena_budget_bytes=budget, engine_threads="2", engine_max_replicas="3") as running:
        running.add("smollm2", demo_gguf(), engine="torch")
        yield running


def test_a_cold_model_streams_a_sensible_english_answer(platform: Platform) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    with platform.client() as client:
        items = list(client.chat("smollm2", messages, temperature=0, max_tokens=24))
        request = client.requests(1)[0]
    text = "".join(item.text for item in items if isinstance(item, Chunk))
    assert text.startswith("The capital of France is Paris.")
    assert isinstance(items[-1], Done)
    assert any(isinstance(item, TimelineComment) for item in items)
    assert all(isinstance(item, Progress | Chunk | TimelineComment | Done) for item in items)
    assert (request.start, request.tier) == ("warm", "nvme")
    assert request.nbytes > 256 << 20
    assert sum(request.phases.values()) == pytest.approx(request.ttft_ms, abs=1.0)


def test_unbound_weights_wake_from_memory_and_say_the_same(platform: Platform) -> None:
    answers = []
    with platform.client() as client:
        for _ in range(2):
            client.stop_model("smollm2")
            answers.append(platform.chat("smollm2", QUESTION, temperature=0, max_tokens=12).json())
            assert client.requests(1)[0].tier == "dram"
    texts = {answer["choices"][0]["message"]["content"] for answer in answers}
    assert len(texts) == 1


def test_concurrent_requests_are_decoded_together_and_all_answered(platform: Platform) -> None:
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(platform.chat, "smollm2", f"Count to {n}.", seed=n, max_tokens=16) for n in range(8)
        ]
        answers = [call.result() for call in calls]
    assert [answer.status_code for answer in answers] == [200] * 8
    assert all(answer.json()["usage"]["completion_tokens"] <= 16 for answer in answers)


def test_second_turn_computes_less_than_a_tenth_of_the_first_again(platform: Platform) -> None:
    question = "You are a patient teacher. " * 30 + "Tell me a long story about a lighthouse keeper."
    first = [{"role": "user", "content": question}]
    answer = ask(platform, first, max_tokens=250)
    said = answer["choices"][0]["message"]
    again = [
        *first,
        {"role": "assistant", "content": said["content"]},
        {"role": "user", "content": "And then?"},
    ]
    usage = ask(platform, again, max_tokens=2)["usage"]
    first_tokens = answer["usage"]["total_tokens"]
    assert first_tokens > 330
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0.9 * first_tokens


def ask(platform: Platform, messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
    """A greedy answer without streaming."""
    body = {"model": "smollm2", "messages": messages, "temperature": 0, "max_tokens": max_tokens}
    answer: dict[str, Any] = platform.post("/v1/chat/completions", body).json()
    return answer


def test_twenty_variants_cycle_through_a_budget_of_five_and_leave_nothing_behind(
    platform: Platform, tmp_path: Path
) -> None:
    names = [f"variant-{number}" for number in range(NUM_VARIANTS)]
    for name, source in zip(names, variant_sources(tmp_path, NUM_VARIANTS), strict=True):
        platform.add(name, source, engine="torch")
    call_all_twice(platform, names)
    server = psutil.Process(platform.server.pid)
    num_processes, num_fds, nbytes = len(platform.processes()), server.num_fds(), private_bytes(server)
    call_all_twice(platform, names)
    assert len(platform.processes()) == num_processes
    assert server.num_fds() < num_fds + NUM_VARIANTS, "a wake leaves a descriptor behind"
    assert private_bytes(server) < nbytes + (64 << 20)


def call_all_twice(platform: Platform, names: list[str]) -> None:
    """Two calls to each model, six at a time; then all sleep, and nothing is held."""
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(platform.chat, name, "Hello", max_tokens=2) for name in names * 2]
        assert [call.result().status_code for call in calls] == [200] * len(calls)
    with platform.client() as client:
        for name in names:
            client.stop_model(name)
        eventually(lambda: all(not model.replicas for model in client.models()))
    eventually(lambda: not pinned_or_partial(platform))
    eventually(lambda: slots(platform) == {"torch.primed": 1, "simulated.primed": 1})


def slots(platform: Platform) -> dict[str, int]:
    """Slots by engine and state, without those that are none: the pool is at rest when all wait primed."""
    with platform.client() as client:
        status = client.agents()[0].status
    return {name: number for name, number in status.slots.items() if number} if status else {}


def pinned_or_partial(platform: Platform) -> list[str]:
    """Revisions in the arena that something still holds, once use and budget were compared."""
    with platform.client() as client:
        status = client.agents()[0].status
    assert status is not None
    assert status.arena_used_bytes <= status.arena_budget_bytes
    return [region.revision for region in status.regions if region.is_pinned or not region.is_complete]


def private_bytes(server: psutil.Process) -> int:
    """Memory that only the server has: the arena, which workers map too, is not in it."""
    return int(server.memory_full_info().uss)
