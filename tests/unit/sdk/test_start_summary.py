# SPDX-License-Identifier: Apache-2.0
"""What callers learn of a start, from both places where it is told."""

from __future__ import annotations

from serverlessllm.sdk.start_summary import StartSummary
from serverlessllm.telemetry.timeline import Timeline
from serverlessllm.types import PHASES


def _timeline() -> Timeline:
    return Timeline(
        request_id="r",
        model="m",
        endpoint="chat",
        arrived_s=1.0,
        start="warm",
        tier="dram",
        bind_ms=21.5,
        prefill_ms=40.25,
        first_token_ms=1.0,
        ttft_ms=62.75,
        gbps=1.5,
        nbytes=9,
    )


def test_timeline_comment_is_read_back_whole() -> None:
    summary = StartSummary.from_json(_timeline().summary_json())
    assert summary is not None
    assert (summary.start, summary.tier, summary.ttft_ms) == ("warm", "dram", 62.75)
    assert (summary.gbps, summary.nbytes) == (1.5, 9)
    assert list(summary.phases_ms) == list(PHASES)
    assert summary.phases_ms["bind"] == 21.5


def test_server_timing_header_is_read_back() -> None:
    summary = StartSummary.from_server_timing(_timeline().server_timing())
    assert summary is not None
    assert (summary.start, summary.ttft_ms) == ("warm", 62.75)
    assert summary.phases_ms["prefill"] == 40.25


def test_server_timing_of_others_is_no_summary() -> None:
    assert StartSummary.from_server_timing('cache;desc="Hit", db;dur=53') is None
    assert StartSummary.from_server_timing("") is None


def test_malformed_durations_count_as_zero() -> None:
    summary = StartSummary.from_server_timing("read;dur=1e999, bind;dur=., prefill;dur=2")
    assert summary is not None
    assert (summary.phases_ms["read"], summary.phases_ms["bind"]) == (0.0, 0.0)


def test_text_that_is_no_object_is_no_summary() -> None:
    assert StartSummary.from_json("[1]") is None
    assert StartSummary.from_json(b"\xff{}") is None
