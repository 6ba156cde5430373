# SPDX-License-Identifier: Apache-2.0
"""Scale to zero: a replica that nobody called for its model's keep-alive is unbound; its bytes stay in memory.

Of several orchestrators the leader does it. What a drained agent has is idle as soon as nothing runs.
idle = now − the end of the last request seen by us, or reported by the agent, whichever is later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from serverlessllm.clock import Clock
from serverlessllm.orchestrator.models import Models
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.orchestrator.unbind import Unbinder

log = logging.getLogger(__name__)

MIN_LOOK_S: Final = 0.05
MAX_LOOK_S: Final = 1.0


class IdleScaler:
    """`run` until cancelled. `default_keep_alive_s` holds for models without their own."""

    def __init__(
        self,
        models: Models,
        table: ReplicaTable,
        unbinder: Unbinder,
        clock: Clock,
        default_keep_alive_s: float,
        is_leader: Callable[[], bool] = lambda: True,
    ) -> None:
        self._models = models
        self._table = table
        self._unbinder = unbinder
        self._clock = clock
        self._default_keep_alive_s = default_keep_alive_s
        self._is_leader = is_leader
        self._unbindings: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look now and then, more often the sooner something may expire."""
        try:
            while True:
                pause_s = MAX_LOOK_S
                try:
                    pause_s = self._look_at_all()
                except Exception:
                    log.exception("scaling to zero failed; going on")
                await asyncio.sleep(pause_s)
        finally:
            for unbinding in self._unbindings:
                unbinding.cancel()
            await asyncio.gather(*self._unbindings, return_exceptions=True)

    def _look_at_all(self) -> float:
        if not self._is_leader():
            return MAX_LOOK_S
        left_s = [self._look(replica) for replica in self._table.all()]
        return min(MAX_LOOK_S, max(MIN_LOOK_S, min(left_s, default=MAX_LOOK_S)))

    def _look(self, replica: Replica) -> float:
        """Begin to unbind the replica if its time is over; seconds until it may be."""
        left_s = self.left_s(replica)
        if left_s > 0 or replica.is_draining:
            return max(left_s, MIN_LOOK_S)
        unbinding = asyncio.create_task(self._unbind(replica), name=f"unbind {replica.model}")
        self._unbindings.add(unbinding)
        unbinding.add_done_callback(self._unbindings.discard)
        return MAX_LOOK_S

    async def _unbind(self, replica: Replica) -> None:
        """In a task of its own: an agent that does not answer must not keep others from being freed."""
        if await self._unbinder.unbind(replica, only_idle=True):
            log.info("unbound %s on %s: idle", replica.model, replica.link.agent_id)

    def left_s(self, replica: Replica) -> float:
        """Seconds until the replica's keep-alive is over; 0 or less when it is. A busy one has all of it left."""
        record = self._models.find(replica.model)
        keep_alive_s = self._default_keep_alive_s
        if record is not None and record.keep_alive_s is not None:
            keep_alive_s = record.keep_alive_s
        if replica.num_inflight or replica.num_remote:
            return max(keep_alive_s, MIN_LOOK_S)
        if replica.link.is_drained:
            return 0.0
        if record is not None and 0 < record.min_replicas >= len(
            self._table.ready(record.name, record.revision)
        ):
            return max(keep_alive_s, MIN_LOOK_S)
        return keep_alive_s - (self._clock.monotonic_s() - replica.used_s)
