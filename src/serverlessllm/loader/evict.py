# SPDX-License-Identifier: Apache-2.0
"""Which regions to give up for room. Pure: no clock, no I/O; knows sizes, ages and costs, not the arena.

The value of keeping a region is the time that a call would lose without it, times how likely that call is. Placement,
which sees every call, tells it with each load (`loss_s`); where it did not:

    value = restore_s · priority · 2^(−idle_s / HALF_LIFE_S)

and what it costs is the bytes that it holds. The least value per byte goes first: among regions that come back
equally fast per byte this is least-recently-used, and what is slow to bring back stays longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HALF_LIFE_S: Final = 600.0
"""Idle time that halves the likelihood of another call; the order of a usual keep-alive."""


@dataclass(frozen=True, slots=True)
class EvictionCandidate:
    """`held_bytes` > 0 are what releasing frees; `restore_s` is the time to bring the region back.

    `loss_s`: what callers will lose, by who sees all of them; None: nobody told.
    """

    revision: str
    held_bytes: int
    restore_s: float
    idle_s: float
    is_evictable: bool = True
    priority: float = 1.0
    loss_s: float | None = None


def value_per_byte(candidate: EvictionCandidate) -> float:
    """Expected seconds lost per byte freed."""
    if candidate.loss_s is not None:
        return float(candidate.loss_s * candidate.priority / candidate.held_bytes)
    likelihood = 2.0 ** (-candidate.idle_s / HALF_LIFE_S)
    return float(candidate.restore_s * candidate.priority * likelihood / candidate.held_bytes)


def choose_victims(candidates: Sequence[EvictionCandidate], need_bytes: int) -> list[str] | None:
    """Revisions whose release frees at least `need_bytes`, least valuable first; None when all would not do.

    Ensures: nothing that is not evictable is chosen, and no victim could be spared.
    """
    in_order = sorted(
        (c for c in candidates if c.is_evictable), key=lambda c: (value_per_byte(c), -c.idle_s, c.revision)
    )
    chosen: list[EvictionCandidate] = []
    freed_bytes = 0
    for candidate in in_order:
        if freed_bytes >= need_bytes:
            break
        chosen.append(candidate)
        freed_bytes += candidate.held_bytes
    if freed_bytes < need_bytes:
        return None
    for candidate in reversed(list(chosen)):
        if freed_bytes - candidate.held_bytes >= need_bytes:
            chosen.remove(candidate)
            freed_bytes -= candidate.held_bytes
    return [candidate.revision for candidate in chosen]
