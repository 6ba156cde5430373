# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to use a shared medium: shares in proportion to weights. Pure: no clock, no threads.

Each member has a pass, the bytes it was given over its weight; the least pass is next. Who joins starts at the
present pass of the others, so it neither waits for a history it has no part in nor makes up for time it was away.
Source: C. Waldspurger, W. Weihl, "Stride Scheduling" (1995); ours charges after the fact, by bytes.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

MIN_PRIORITY: Final = -4
MAX_PRIORITY: Final = 4

M = TypeVar("M")


def weight_of(priority: int) -> float:
    """Each step of priority doubles the share: 2^priority, bounded so that nobody starves."""
    return float(2.0 ** max(MIN_PRIORITY, min(MAX_PRIORITY, priority)))


class FairTurns(Generic[M]):
    """Members and their passes. O(members) per call: a node runs a few loads at once."""

    def __init__(self) -> None:
        self._weights: dict[M, float] = {}
        self._passes: dict[M, float] = {}
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._passes)

    def join(self, member: M, weight: float) -> None:
        """Take part from now on. Raises: ValueError for a weight that is not positive."""
        if weight <= 0:
            raise ValueError(f"a weight of {weight} gives no share")
        self._weights[member] = weight
        self._passes[member] = self._now

    def leave(self, member: M) -> None:
        """Take part no longer; unknown members are ignored."""
        self._passes.pop(member, None)
        self._weights.pop(member, None)

    def next(self) -> M | None:
        """Whose turn it is: the least pass, of equals who joined first. None when there is nobody."""
        return min(self._passes, key=self._passes.__getitem__, default=None)

    def charge(self, member: M, nbytes: int) -> None:
        """The member was given `nbytes`."""
        self._now = max(self._now, self._passes[member])
        self._passes[member] += nbytes / self._weights[member]
