# SPDX-License-Identifier: Apache-2.0
"""Shares follow weights, whoever comes and goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.loader.transfer.turns import FairTurns, weight_of


def serve(turns: FairTurns[str], rounds: int, nbytes: int = 8) -> dict[str, int]:
    """How often each had its turn."""
    given: dict[str, int] = {}
    for _ in range(rounds):
        member = turns.next()
        assert member is not None
        turns.charge(member, nbytes)
        given[member] = given.get(member, 0) + 1
    return given


def test_step_of_priority_doubles_the_share() -> None:
    turns: FairTurns[str] = FairTurns()
    for name, priority in (("low", -1), ("plain", 0), ("high", 1)):
        turns.join(name, weight_of(priority))
    assert serve(turns, 70) == {"low": 10, "plain": 20, "high": 40}


@given(st.dictionaries(st.text(max_size=3), st.integers(-6, 6), min_size=1, max_size=6), st.integers(1, 400))
def test_nobody_is_further_than_one_turn_from_its_share(priorities: dict[str, int], rounds: int) -> None:
    turns: FairTurns[str] = FairTurns()
    for name, priority in priorities.items():
        turns.join(name, weight_of(priority))
    given = serve(turns, rounds)
    passes = {name: given.get(name, 0) / weight_of(priority) for name, priority in priorities.items()}
    slack = max(1 / weight_of(priority) for priority in priorities.values())
    assert max(passes.values()) - min(passes.values()) <= slack + 1e-9


def test_newcomer_neither_catches_up_nor_waits() -> None:
    turns: FairTurns[str] = FairTurns()
    turns.join("old", 1.0)
    serve(turns, 100)
    turns.join("new", 1.0)
    assert serve(turns, 10) == {"old": 5, "new": 5}


def test_large_reads_count_for_more_than_small_ones() -> None:
    turns: FairTurns[str] = FairTurns()
    turns.join("large", 1.0)
    turns.join("small", 1.0)
    counts = {"large": 0, "small": 0}
    for _ in range(50):
        member = turns.next() or ""
        turns.charge(member, 40 if member == "large" else 10)
        counts[member] += 1
    assert counts["small"] == 4 * counts["large"]


def test_who_left_gets_no_turn() -> None:
    turns: FairTurns[str] = FairTurns()
    turns.join("a", 1.0)
    turns.leave("a")
    turns.leave("a")
    assert (turns.next(), len(turns)) == (None, 0)


def test_weight_without_a_share_is_refused() -> None:
    with pytest.raises(ValueError, match="no share"):
        FairTurns[str]().join("a", 0.0)
