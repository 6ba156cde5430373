# SPDX-License-Identifier: Apache-2.0
"""Which extents are handed out: few runs, touched ones first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.arena.extents import ExtentPool, pick, runs


def test_pick_takes_the_smallest_run_that_suffices() -> None:
    assert pick([0, 1, 2, 3, 10, 11, 20], 2) == [10, 11]


def test_pick_without_a_sufficient_run_uses_the_longest_first() -> None:
    assert sorted(pick([0, 1, 2, 10, 11, 20], 4)) == [0, 1, 2, 20]


def test_touched_extents_are_handed_out_before_fresh_ones() -> None:
    pool = ExtentPool(range(8))
    first = pool.take(3)
    pool.give(first, touched=True)
    assert pool.touched == first
    assert set(first) < set(pool.take(5))
    assert pool.num_free == 3


def test_more_than_free_is_refused_and_nothing_is_taken() -> None:
    pool = ExtentPool(range(2))
    with pytest.raises(ValueError, match="3 extents wanted, 2 free"):
        pool.take(3)
    assert pool.num_free == 2


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=40))
def test_pool_never_hands_out_an_extent_twice(steps: list[tuple[int, bool]]) -> None:
    pool = ExtentPool(range(16))
    held: list[list[int]] = []
    for count, give_back in steps:
        if give_back and held:
            pool.give(held.pop(0), touched=count % 2 == 0)
        elif count <= pool.num_free:
            held.append(pool.take(count))
        in_use = [index for taken in held for index in taken]
        assert len(in_use) == len(set(in_use))
        assert len(in_use) + pool.num_free == 16


@given(st.sets(st.integers(0, 60)))
def test_runs_cover_exactly_the_indices_without_touching_each_other(indices: set[int]) -> None:
    found = runs(indices)
    assert {index for run in found for index in run} == indices
    assert all(left.stop < right.start for left, right in zip(found, found[1:], strict=False))
