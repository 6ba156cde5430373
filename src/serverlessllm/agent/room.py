# SPDX-License-Identifier: Apache-2.0
"""Whose replicas to unbind so that another model fits: in DRAM, and among `max_replicas`.

Pure: reads no clock, unbinds nothing. Bytes of unbound replicas are then the loader's to evict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holder:
    """A replica that holds a seat, and pins `nbytes` of its revision. `idle_s` is None while it is in use.

    `loss_s`: what its going would cost others, in expected seconds, as far as placement told.
    """

    model: str
    revision: str
    nbytes: int
    idle_s: float | None
    loss_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Need:
    """What a load lacks. `missing_bytes` are beyond what is free or could be evicted unasked; both may be ≤ 0."""

    missing_bytes: int
    missing_seats: int

    @property
    def is_met(self) -> bool:
        return self.missing_bytes <= 0 and self.missing_seats <= 0


def choose_unbinds(holders: Sequence[Holder], need: Need) -> list[Holder] | None:
    """The idle holders to unbind, those first whose going costs least, then the longest idle; None if even all of
    them would not do: wait.

    Nothing is chosen in vain: without any one of them the need would not be met. A revision's bytes come free
    only when all its holders go. O(holders²).
    """
    if need.is_met:
        return []
    idle = sorted((h for h in holders if h.idle_s is not None), key=lambda h: (h.loss_s, -(h.idle_s or 0.0)))
    chosen: list[Holder] = []
    for holder in idle:
        chosen.append(holder)
        if _left(holders, chosen, need).is_met:
            return _without_spare(holders, chosen, need)
    return None


def _without_spare(holders: Sequence[Holder], chosen: list[Holder], need: Need) -> list[Holder]:
    """Spare the last of them first: the least likely to be missed goes."""
    for holder in reversed(chosen[:]):
        fewer = [other for other in chosen if other is not holder]
        if _left(holders, fewer, need).is_met:
            chosen = fewer
    return chosen


def _left(holders: Iterable[Holder], chosen: Sequence[Holder], need: Need) -> Need:
    """What would still lack if `chosen` were unbound."""
    kept = {holder.revision for holder in holders if holder not in chosen}
    freed = {holder.revision: holder.nbytes for holder in chosen if holder.revision not in kept}
    return Need(need.missing_bytes - sum(freed.values()), need.missing_seats - len(chosen))
