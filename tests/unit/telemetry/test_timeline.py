# SPDX-License-Identifier: Apache-2.0
"""Timelines: phases add up to the TTFT, whoever waited for whom."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.telemetry.timeline import Timeline, TimelineRing
from serverlessllm.wire.agent import InferTiming, LoadResult, StreamedLoad

LOAD = LoadResult(
    model="m", revision="0" * 32, attempt=1, start="warm", tier="nvme", nbytes=1000, fetch_ms=0.0, read_ms=200.0,
    bind_ms=40.0, gbps=1.0, possible_gbps=2.0, limiting="nvme",
)  # fmt: skip


def timeline(request_id: str = "r") -> Timeline:
    return Timeline(request_id=request_id, model="m", endpoint="chat", arrived_s=0.0)


@given(st.floats(0, 10_000), st.floats(0, 500), st.floats(0, 500), st.floats(0, 1000))
def test_phases_add_up_to_ttft(waited_ms: float, queue_ms: float, prefill_ms: float, rest_ms: float) -> None:
    line = timeline()
    line.note_wake(LOAD, waited_ms)
    ttft_ms = waited_ms + queue_ms + prefill_ms + rest_ms
    line.note_first_token(InferTiming(queue_ms, prefill_ms, 37), ttft_ms)
    assert sum(line.phases().values()) == pytest.approx(ttft_ms, abs=0.1)


def test_a_late_joiner_saw_only_the_end_of_the_load() -> None:
    line = timeline()
    line.note_wake(LOAD, 60.0)
    assert (line.bind_ms, line.read_ms, line.fetch_ms) == (40.0, 20.0, 0.0)


def test_server_timing_lists_every_phase() -> None:
    line = timeline()
    line.note_wake(LOAD, 240.0)
    line.note_first_token(InferTiming(1.0, 38.0, 37), 285.0)
    header = line.server_timing()
    assert header.startswith(
        "queue;dur=1.00, place;dur=0.00, fetch;dur=0.00, read;dur=200.00, bind;dur=40.00"
    )
    assert 'start;desc="warm"' in header


def test_ring_keeps_live_requests_and_the_last_finished_ones() -> None:
    ring = TimelineRing(max_finished=2)
    lines = [timeline(str(number)) for number in range(5)]
    for line in lines:
        ring.start(line)
    for line in lines[:4]:
        ring.finish(line)
    assert ring.get("0") is None
    assert [line.request_id for line in ring.recent(10)] == ["4", "3", "2"]
    assert [line.request_id for line in ring.recent(1)] == ["4"]


@given(st.floats(0, 500), st.floats(0, 10_000), st.floats(0, 500), st.sampled_from(["nvme", "remote"]))
def test_phases_of_a_streamed_start_add_up_to_ttft(
    waited_ms: float, stall_ms: float, prefill_ms: float, tier: Literal["nvme", "remote"]
) -> None:
    line = timeline()
    line.note_wake(LOAD, waited_ms)
    load = StreamedLoad("warm", tier, 1000, 3000.0, 0.5)
    ttft_ms = waited_ms + stall_ms + prefill_ms + 5.0
    line.note_first_token(InferTiming(0.0, prefill_ms, 37, stall_ms=stall_ms, load=load), ttft_ms)
    assert sum(line.phases().values()) == pytest.approx(ttft_ms, abs=0.1)
    assert line.load_ms == 3000.0


def test_request_that_joined_a_streamed_load_late_is_no_hot_one() -> None:
    line = timeline()
    load = StreamedLoad("cold", "remote", 1000, 3000.0, 0.5)
    line.note_first_token(InferTiming(0.0, 40.0, 37, stall_ms=900.0, load=load), 950.0)
    assert (line.start, line.tier, line.fetch_ms, line.nbytes) == ("cold", "remote", 900.0, 1000)
    assert '"load":3000.0' in line.summary_json()
