# SPDX-License-Identifier: Apache-2.0
"""Progress is throttled by the clock, and never silent about the end."""

from __future__ import annotations

from serverlessllm.ingest.progress import ProgressMeter
from serverlessllm.wire.ingest import Progress


class _HandClock:
    def __init__(self) -> None:
        self.now_s = 5.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


def test_reports_come_at_most_every_tenth_of_a_second_and_at_the_end() -> None:
    clock, seen = _HandClock(), list[Progress]()
    meter = ProgressMeter(100, seen.append, clock)
    for _ in range(100):
        clock.now_s += 0.01
        meter.advance(1)
    assert len(seen) in (10, 11)
    assert (seen[-1].done_bytes, seen[-1].eta_s, seen[-1].bytes_per_s) == (100, 0.0, 100.0)


def test_eta_is_what_is_left_at_the_mean_rate() -> None:
    clock, seen = _HandClock(), list[Progress]()
    meter = ProgressMeter(100, seen.append, clock, phase="fetch")
    clock.now_s += 2.0
    meter.advance(25)
    assert seen == [Progress(25, 100, 6.0, "fetch", 12.5)]


def test_bytes_of_an_earlier_run_are_done_and_no_speed() -> None:
    clock, seen = _HandClock(), list[Progress]()
    meter = ProgressMeter(100, seen.append, clock)
    meter.reach(50, 100, kept_bytes=50)
    clock.now_s += 2.0
    meter.reach(75, 100, kept_bytes=50)
    assert seen == [Progress(50, 100), Progress(75, 100, 2.0, "convert", 12.5)]


def test_first_report_knows_no_rate_yet() -> None:
    clock, seen = _HandClock(), list[Progress]()
    ProgressMeter(100, seen.append, clock).advance(10)
    assert (seen[0].eta_s, seen[0].bytes_per_s) == (None, 0.0)
