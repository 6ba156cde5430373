# SPDX-License-Identifier: Apache-2.0
"""Which way to read is chosen from what was measured."""

from __future__ import annotations

import pytest

from serverlessllm.arena.mapping import HUGE_PAGE_BYTES, PAGE_BYTES
from serverlessllm.config import MIB
from serverlessllm.loader.tune.range_tuner import RangeResult, choose_connections
from serverlessllm.loader.tune.trial import (
    Method,
    Trial,
    TrialResult,
    choose_best,
    choose_method,
    fastest_of_each,
    grid_trials,
    possible_bytes_per_s,
)


def result(
    gbps: float, *, method: Method = "direct", pages: int = HUGE_PAGE_BYTES, threads: int = 4, mib: int = 8
) -> TrialResult:
    return TrialResult(Trial(method, pages, threads, mib * MIB), 1 << 30, gbps * 1e9, 0.01)


def test_clearly_fastest_way_is_chosen() -> None:
    fast = result(3.0, threads=8, mib=16)
    assert choose_best([result(2.5), fast, result(1.0, threads=1)], HUGE_PAGE_BYTES) is fast


def test_of_equally_fast_ways_the_one_with_least_in_flight_is_chosen() -> None:
    small = result(2.96, mib=4)
    assert choose_best([result(3.0, threads=8, mib=32), small, result(2.98)], HUGE_PAGE_BYTES) is small


def test_few_threads_are_chosen_only_when_they_are_clearly_faster() -> None:
    lone, usual = result(3.0, threads=1, mib=32), result(2.95)
    assert choose_best([lone, usual], HUGE_PAGE_BYTES) is usual
    assert choose_best([lone, result(2.0)], HUGE_PAGE_BYTES) is lone


def test_other_pages_and_ways_that_no_load_can_go_are_not_chosen() -> None:
    mine = result(1.0, method="buffered", pages=PAGE_BYTES)
    others = [result(3.0), result(9.0, method="populate", pages=PAGE_BYTES)]
    assert choose_best([mine, *others], PAGE_BYTES) is mine
    assert choose_method([mine, *others], PAGE_BYTES) == "buffered"
    assert possible_bytes_per_s([mine, *others]) == 3e9


def test_disturbed_pass_does_not_count_against_a_way() -> None:
    assert [found.bytes_per_s for found in fastest_of_each([result(1.0), result(2.0)])] == [2e9]


def test_grid_has_each_way_once() -> None:
    trials = grid_trials("direct", HUGE_PAGE_BYTES)
    assert len(set(trials)) == len(trials) >= 20


def test_nothing_measured_for_these_pages_is_refused() -> None:
    with pytest.raises(ValueError):
        choose_best([result(3.0)], PAGE_BYTES)


def test_fewest_connections_that_are_fast_enough_are_chosen_for_ranges_that_a_fetch_asks_for() -> None:
    ranges = [
        RangeResult(16, 8 * MIB, 1, 2.00e9),
        RangeResult(4, 8 * MIB, 1, 1.98e9),
        RangeResult(2, 8 * MIB, 1, 1.00e9),
        RangeResult(1, 16 * MIB, 1, 5.00e9),
    ]
    assert choose_connections(ranges).num_connections == 4
