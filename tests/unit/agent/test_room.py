# SPDX-License-Identifier: Apache-2.0
"""Whom to unbind for another model: enough, longest idle first, nobody in vain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.agent.room import Holder, Need, choose_unbinds


def holder(model: str, nbytes: int, idle_s: float | None, revision: str | None = None) -> Holder:
    return Holder(model, revision or model, nbytes, idle_s)


def test_met_need_unbinds_nobody() -> None:
    assert choose_unbinds([holder("a", 10, 5.0)], Need(0, 0)) == []


def test_missing_seat_takes_the_longest_idle() -> None:
    a, b = holder("a", 10, 5.0), holder("b", 10, 9.0)
    assert choose_unbinds([a, b], Need(-50, 1)) == [b]


def test_busy_holders_mean_wait() -> None:
    assert choose_unbinds([holder("a", 10, None), holder("b", 10, None)], Need(1, 0)) is None


def test_insufficient_idle_bytes_unbind_nobody() -> None:
    assert choose_unbinds([holder("a", 10, 5.0), holder("b", 90, None)], Need(50, 0)) is None


def test_small_holder_is_spared_when_a_big_one_must_go_anyway() -> None:
    small, big = holder("small", 1, 9.0), holder("big", 100, 5.0)
    assert choose_unbinds([small, big], Need(50, 0)) == [big]


def test_shared_revision_frees_bytes_only_when_all_its_holders_go() -> None:
    idle, twin = holder("a", 10, 9.0, "r"), holder("b", 10, 1.0, "r")
    assert choose_unbinds([idle, holder("b", 10, None, "r")], Need(5, 0)) is None
    assert choose_unbinds([idle, twin], Need(5, 0)) == [idle, twin]


SIZES = (1, 9, 4, 2, 7, 5)
holders = st.lists(st.tuples(st.integers(0, 5), st.none() | st.floats(0, 100)), max_size=7).map(
    lambda rows: [Holder(f"m{i}", f"r{r}", SIZES[r], idle) for i, (r, idle) in enumerate(rows)]
)
"""A revision has one size, whoever holds it."""


def freed_bytes(found: list[Holder], chosen: list[Holder]) -> int:
    kept = {other.revision for other in found if other not in chosen}
    return sum({h.revision: h.nbytes for h in chosen if h.revision not in kept}.values())


def meets(found: list[Holder], chosen: list[Holder], need: Need) -> bool:
    return freed_bytes(found, chosen) >= need.missing_bytes and len(chosen) >= need.missing_seats


@given(holders, st.integers(-5, 30), st.integers(-2, 5))
def test_choice_is_enough_idle_and_minimal(
    found: list[Holder], missing_bytes: int, missing_seats: int
) -> None:
    need = Need(missing_bytes, missing_seats)
    chosen = choose_unbinds(found, need)
    idle = [h for h in found if h.idle_s is not None]
    if chosen is None:
        assert not meets(found, idle, need)
        return
    assert meets(found, chosen, need)
    assert all(h in idle for h in chosen)
    assert not any(meets(found, [o for o in chosen if o is not h], need) for h in chosen)
