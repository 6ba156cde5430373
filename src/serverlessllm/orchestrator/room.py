# SPDX-License-Identifier: Apache-2.0
"""Room on a full agent, in turns: no model keeps its place for ever while another one waits.

Idle replicas are the agent's to evict. When all are busy, the longest-serving one is drained here: it takes no
new requests (they are held and wake it again, behind us), and is unbound once what it runs is finished.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from serverlessllm.clock import Clock
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.orchestrator.unbind import Unbinder

log = logging.getLogger(__name__)

MIN_SERVICE_S: Final = 1.0
"""A replica serves at least so long before it is drained for another: wake-ups must pay for themselves."""
MAX_DRAIN_S: Final = 2.0
"""A victim that is still busy after this is let go, and another one is tried."""
POLL_S: Final = 0.05


class Room:
    """Turns and drains, per agent."""

    def __init__(self, table: ReplicaTable, unbinder: Unbinder, changes: Changes, clock: Clock) -> None:
        self._table = table
        self._unbinder = unbinder
        self._changes = changes
        self._clock = clock
        self._turns: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def turn(self, link: AgentLink, *, must_wait: bool) -> AsyncIterator[None]:
        """Load inside of this. First come, first served once somebody waits for room (`must_wait`)."""
        lock = self._turns.setdefault(link.address, asyncio.Lock())
        if not must_wait and not lock.locked():
            yield
            return
        async with lock:
            yield

    async def make(self, link: AgentLink, model: str) -> None:
        """Unbind one busy replica of another model, or wait a moment when none may be. Call within a turn."""
        victim = self._victim(link, model)
        if victim is None:
            await self._changes.wait(POLL_S)
            return
        log.info("draining %s on %s to make room for %s", victim.model, link.agent_id, model)
        victim.is_draining = True
        deadline_s = self._clock.monotonic_s() + MAX_DRAIN_S
        try:
            while not await self._unbinder.unbind(victim, only_idle=True):
                if self._clock.monotonic_s() > deadline_s or not link.is_alive:
                    victim.ready_s = self._clock.monotonic_s()  # the next turn takes another victim
                    return
                await self._changes.wait(POLL_S)
        finally:
            victim.is_draining = False

    def _victim(self, link: AgentLink, model: str) -> Replica | None:
        oldest_s = self._clock.monotonic_s() - MIN_SERVICE_S
        candidates = [
            replica
            for replica in self._table.all()
            if replica.link is link
            and replica.model != model
            and not replica.is_draining
            and replica.ready_s <= oldest_s
        ]
        return min(candidates, key=lambda replica: replica.ready_s, default=None)
