# SPDX-License-Identifier: Apache-2.0
"""Room in the arena for one more revision: allocates, evicting what is worth least. The choice is pure (`evict.py`).

Knows what regions cost to bring back and how much they matter; not what is in them. For one event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.region import ArenaEntry, Region
from serverlessllm.clock import Clock
from serverlessllm.errors import CapacityError
from serverlessllm.loader.evict import EvictionCandidate, choose_victims
from serverlessllm.loader.transfer.turns import weight_of


class DramRoom:
    """`busy` are the revisions that loads work on; `restore_rate(revision)` says how fast one comes back, bytes/s."""

    def __init__(
        self,
        arena: Arena,
        clock: Clock,
        *,
        busy: Container[str],
        restore_rate: Callable[[str], float],
    ) -> None:
        self._arena = arena
        self._clock = clock
        self._busy = busy
        self._restore_rate = restore_rate
        self._priorities: dict[str, int] = {}
        self._losses_s: dict[str, float] = {}

    def note_priority(self, revision: str, priority: int) -> None:
        """How much the last caller of a revision matters; in force while its region is here."""
        self._priorities[revision] = priority

    def note_losses(self, losses_s: Mapping[str, float]) -> None:
        """What callers would lose by each revision's going; in force until told anew."""
        self._losses_s.update(losses_s)

    def make(self, revision: str, nbytes: int) -> Region:
        """A loading region. No await: nothing else can take the room meanwhile.

        Raises: CapacityError naming what cannot be evicted; InsufficientMemoryError, ConflictError as `allocate`.
        """
        try:
            return self._arena.allocate(revision, nbytes)
        except CapacityError:
            missing_bytes = self._arena.held_bytes(nbytes) - self._arena.free_bytes
            victims = choose_victims(self._candidates(), missing_bytes)
            if victims is None:
                raise self._no_room(revision, nbytes) from None
            for victim in victims:
                self._arena.release(victim)
                self._priorities.pop(victim, None)
                self._losses_s.pop(victim, None)
            return self._arena.allocate(revision, nbytes)

    def _candidates(self) -> list[EvictionCandidate]:
        now_s = self._clock.monotonic_s()
        return [
            EvictionCandidate(
                revision=entry.revision,
                held_bytes=entry.held_bytes,
                restore_s=entry.nbytes / self._restore_rate(entry.revision),
                idle_s=max(0.0, now_s - entry.last_used_s),
                is_evictable=not self._is_held(entry),
                priority=weight_of(self._priorities.get(entry.revision, 0)),
                loss_s=self._losses_s.get(entry.revision),
            )
            for entry in self._arena.entries()
        ]

    def _is_held(self, entry: ArenaEntry) -> bool:
        return entry.pinned or not entry.complete or entry.revision in self._busy

    def _no_room(self, revision: str, nbytes: int) -> CapacityError:
        held = [
            f"{entry.revision} ({entry.held_bytes} bytes, {'in use' if entry.complete else 'loading'})"
            for entry in self._arena.entries()
            if self._is_held(entry)
        ]
        return CapacityError(
            f"revision {revision} needs {self._arena.held_bytes(nbytes)} bytes of DRAM and the arena has "
            f"{self._arena.budget_bytes}, of which these cannot be evicted now: {', '.join(held)}; "
            "try again when a replica is idle, stop one, or raise arena.budget_bytes",
            source="agent",
        )
