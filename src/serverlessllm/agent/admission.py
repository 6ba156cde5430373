# SPDX-License-Identifier: Apache-2.0
"""One load at a time gets room, in order of arrival; the first in line waits until others are idle.

So two loads never unbind replicas for the same bytes, nobody is overtaken for ever, and a load that cannot be
helped yet costs no other model its replica. The choice itself is pure (`room.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from serverlessllm.agent.replica import Replica, ReplicaKey
from serverlessllm.agent.room import Need, choose_unbinds
from serverlessllm.arena.arena import Arena
from serverlessllm.wire.agent import Loss

RECHECK_S: Final = 0.25
"""How long to wait before looking again unasked: a grace ends, or a process drops its pin, without telling us."""


class Admission:
    """The door to DRAM and to a seat among `max_replicas`, for the loads of one event loop."""

    def __init__(self, arena: Arena, replicas: Mapping[ReplicaKey, Replica], max_replicas: int) -> None:
        self._arena = arena
        self._replicas = replicas
        self._max_replicas = max_replicas
        self._door = asyncio.Lock()
        self._changed = asyncio.Event()

    def notice(self) -> None:
        """A replica became idle or went: look again."""
        self._changed.set()

    async def enter(
        self, replica: Replica, *, evict_idle: bool, losses: Mapping[str, Loss] | None = None
    ) -> Callable[[], None]:
        """Wait until `replica` has a seat, and its bytes fit once the loader has evicted what nobody pins.

        `evict_idle`: whether idle replicas of others may be unbound for it, the least of `losses` first. Nobody else
        gets room before the returned function is called (any number of times): call it when the bytes are allocated
        or pinned.
        """
        await self._door.acquire()
        try:
            while not (missing := self._missing(replica)).is_met:
                self._changed.clear()
                victims = self._victims(replica, missing, losses or {}) if evict_idle else None
                if victims is None:
                    await self._wait()
                else:
                    await _unbind(victims)
            replica.has_seat = True
        except BaseException:
            self._door.release()
            raise
        return _once(self._door.release)

    def _missing(self, replica: Replica) -> Need:
        num_others = sum(1 for other in self._replicas.values() if other.has_seat and other is not replica)
        return Need(self._missing_bytes(replica), num_others + 1 - self._max_replicas)

    def _missing_bytes(self, replica: Replica) -> int:
        """What lacks beyond free bytes and those that the loader may evict; nothing for bytes that are here or
        on their way."""
        entries = self._arena.entries()
        if any(entry.revision == replica.key.revision for entry in entries):
            return 0
        evictable_bytes = sum(entry.held_bytes for entry in entries if entry.complete and not entry.pinned)
        return replica.held_bytes - self._arena.free_bytes - evictable_bytes

    def _victims(self, replica: Replica, missing: Need, losses: Mapping[str, Loss]) -> list[Replica] | None:
        others = [other for other in self._replicas.values() if other.has_seat and other is not replica]
        holders = [other.as_holder(_unbind_s(losses, other.key.revision)) for other in others]
        chosen = choose_unbinds(holders, missing)
        if chosen is None:
            return None
        return [self._replicas[ReplicaKey(holder.model, holder.revision)] for holder in chosen]

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), RECHECK_S)
        except TimeoutError:
            return


def _unbind_s(losses: Mapping[str, Loss], revision: str) -> float:
    loss = losses.get(revision)
    return 0.0 if loss is None else loss.unbind_s


async def _unbind(victims: Iterable[Replica]) -> None:
    """All stop taking requests in this very step, in which they were seen to be idle."""
    victims = list(victims)
    for victim in victims:
        victim.start_draining()
    for victim in victims:
        await victim.gone.wait()


def _once(release: Callable[[], None]) -> Callable[[], None]:
    """`release`, whatever the number of calls."""
    pending = [release]

    def call() -> None:
        if pending:
            pending.pop()()

    return call
