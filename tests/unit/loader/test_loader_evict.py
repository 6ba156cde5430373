# SPDX-License-Identifier: Apache-2.0
"""Who must go: enough, not more than needed, never one in use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.loader.evict import EvictionCandidate, choose_victims

CANDIDATES = st.lists(
    st.builds(
        EvictionCandidate,
        revision=st.uuids().map(str),
        held_bytes=st.integers(1, 100),
        restore_s=st.floats(0.001, 100),
        idle_s=st.floats(0, 1e6),
        is_evictable=st.booleans(),
        priority=st.floats(0.1, 10),
    ),
    max_size=12,
    unique_by=lambda candidate: candidate.revision,
)


@given(CANDIDATES, st.integers(0, 600))
def test_victims_free_enough_and_none_could_be_spared(
    candidates: list[EvictionCandidate], need_bytes: int
) -> None:
    victims = choose_victims(candidates, need_bytes)
    free = {c.revision: c.held_bytes for c in candidates if c.is_evictable}
    if victims is None:
        assert sum(free.values()) < need_bytes
        return
    assert len(set(victims)) == len(victims)
    freed_bytes = sum(free[revision] for revision in victims)
    assert freed_bytes >= need_bytes
    assert all(freed_bytes - free[revision] < need_bytes for revision in victims)


@given(CANDIDATES, st.integers(0, 600), st.randoms())
def test_choice_does_not_depend_on_the_order_of_candidates(
    candidates: list[EvictionCandidate], need_bytes: int, random: object
) -> None:
    shuffled = sorted(candidates, key=lambda c: hash((c.revision, str(random))))
    assert choose_victims(shuffled, need_bytes) == choose_victims(candidates, need_bytes)


def candidate(name: str, **changes: float) -> EvictionCandidate:
    values = {"restore_s": 1.0, "idle_s": 100.0, "priority": 1.0} | changes
    return EvictionCandidate(name, 10, values["restore_s"], values["idle_s"], priority=values["priority"])


def test_least_recently_used_goes_first_where_all_else_is_equal() -> None:
    ages = {"young": 1.0, "oldest": 900.0, "old": 30.0}
    candidates = [candidate(name, idle_s=age) for name, age in ages.items()]
    assert choose_victims(candidates, 20) == ["oldest", "old"]


def test_what_is_slow_to_bring_back_stays() -> None:
    assert choose_victims([candidate("remote", restore_s=60), candidate("disk", restore_s=1)], 5) == ["disk"]


def test_what_has_priority_stays() -> None:
    assert choose_victims([candidate("gold", priority=5), candidate("plain")], 5) == ["plain"]


def test_ages_beyond_all_likelihood_are_still_ordered() -> None:
    assert choose_victims([candidate("a", idle_s=1e7), candidate("b", idle_s=2e7)], 5) == ["b"]


@given(CANDIDATES, st.integers(1, 600))
def test_what_is_worth_less_in_every_respect_never_outlives_its_equal_in_size(
    candidates: list[EvictionCandidate], need_bytes: int
) -> None:
    victims = set(choose_victims(candidates, need_bytes) or [])
    for gone in (c for c in candidates if c.revision in victims):
        for kept in (c for c in candidates if c.is_evictable and c.revision not in victims):
            assert not (
                kept.held_bytes == gone.held_bytes
                and kept.restore_s < gone.restore_s
                and kept.priority < gone.priority
                and kept.idle_s > gone.idle_s
            )


def test_of_two_that_cost_the_same_to_bring_back_the_larger_goes() -> None:
    large = EvictionCandidate("large", 20, 1.0, 100.0)
    small = EvictionCandidate("small", 10, 1.0, 100.0)
    assert choose_victims([small, large], 5) == ["large"]
