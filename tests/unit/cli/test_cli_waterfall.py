# SPDX-License-Identifier: Apache-2.0
"""The road of a request in the terminal."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from serverlessllm.cli.waterfall import bar, headline, waterfall
from serverlessllm.sdk.start_summary import StartSummary

PHASES_MS = {"queue": 0.5, "place": 0.0, "read": 141.0, "bind": 22.0, "prefill": 61.0, "first_token": 4.0}


def _summary(start: str = "cold", tier: str | None = "nvme") -> StartSummary:
    return StartSummary(start, tier, PHASES_MS, 228.5, 1.93, 269_060_000)


@given(st.floats(0, 1), st.floats(1e-9, 1))
def test_bar_of_any_phase_is_seen_and_stays_inside(start: float, length: float) -> None:
    drawn = bar(start, length, width=40)
    assert drawn.strip()
    assert len(drawn) <= 40


def test_phase_without_time_has_no_bar() -> None:
    assert bar(0.5, 0.0) == ""


def test_headline_says_kind_tier_speed_and_first_token() -> None:
    assert headline(_summary()) == (
        "cold start from nvme · 256.6 MiB at 1.93 GB/s · first token after 228 ms"
    )
    assert headline(StartSummary("hot", "dram", {}, 40.2)) == "hot start · first token after 40 ms"


def test_waterfall_has_a_row_per_touched_phase_in_order() -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(waterfall(_summary()))
    rows = [line.split()[0] for line in out.getvalue().splitlines()[1:]]
    assert rows == ["queue", "read", "bind", "prefill", "first_token"]
