# SPDX-License-Identifier: Apache-2.0
"""Progress is throttled by the clock, and never silent about the end."""

from __future__ import annotations

from serverlessllm.ingest.progress import ProgressMeter
from serverlessllm.wire.ingest import ConvertProgress


class _HandClock:
    def __init__(self) -> None:
        self.now_s = 5.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


def test_reports_come_at_most_every_tenth_of_a_second_and_at_the_end() -> None:
    clock, seen = _HandClock(), list[ConvertProgress]()
    meter = ProgressMeter(100, seen.append, clock)
    for _ in range(100):
        clock.now_s += 0.01
        meter.advance(1)
    assert len(seen) in (10, 11)
    assert seen[-1] == ConvertProgress(100, 100, 0.0)


def test_eta_is_what_is_left_at_the_mean_rate() -> None:
    clock, seen = _HandClock(), list[ConvertProgress]()
    meter = ProgressMeter(100, seen.append, clock)
    clock.now_s += 2.0
    meter.advance(25)
    assert seen == [ConvertProgress(25, 100, 6.0)]
