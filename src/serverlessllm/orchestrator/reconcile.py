# SPDX-License-Identifier: Apache-2.0
"""Makes the store's placements and the agents' replicas agree, when an agent (or we) come back.

A living agent is right about what it has. Its ready replicas of registered revisions are adopted, others are
unbound; records of what no agent has are deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final

from serverlessllm.errors import SllmError
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.models import Models
from serverlessllm.orchestrator.placements import Placements
from serverlessllm.orchestrator.replicas import ReplicaTable
from serverlessllm.orchestrator.unbind import Unbinder
from serverlessllm.sdk.agent import SILENCE_S

log = logging.getLogger(__name__)

GRACE_S: Final = SILENCE_S
"""How long after our start a silent agent's placements are believed."""


class Reconciler:
    """`agent_joined` for every snapshot; `sweep` once, `GRACE_S` after the start."""

    def __init__(
        self,
        models: Models,
        agents: Agents,
        table: ReplicaTable,
        placements: Placements,
        unbinder: Unbinder,
        is_member: Callable[[str], bool],
    ) -> None:
        self._models = models
        self._agents = agents
        self._table = table
        self._placements = placements
        self._unbinder = unbinder
        self._is_member = is_member
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin the sweep's grace period."""
        self._spawn(self._sweep_later())

    async def stop(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def agent_joined(self, link: AgentLink) -> None:
        """An agent sent its whole state."""
        self._spawn(self.reconcile(link))

    async def reconcile(self, link: AgentLink) -> None:
        """Adopt, unbind and delete for one living agent. Idempotent."""
        records = await self._placements.all()
        has = {(status.model, status.attempt) for status in link.state.replicas.values()}
        for record in records:
            is_known = (record.model, record.attempt) in has
            if record.node == link.agent_id and not is_known and not self._placements.is_others(record):
                await self._delete(record.model, record.attempt)
        recorded = {(record.model, record.attempt) for record in records}
        for replica in self._table.all():
            if replica.link is not link:
                continue
            model = self._models.find(replica.model)
            if model is None or model.revision != replica.revision:
                await self._unbinder.unbind(replica, only_idle=False, drop_bytes=False)
            elif (replica.model, replica.attempt) not in recorded:
                await self._placements.adopt(replica.model, replica.revision, link.agent_id, replica.attempt)

    async def sweep(self) -> None:
        """Delete the records of agents that are not alive, and no members either."""
        for record in await self._placements.all():
            if self._agents.by_id(record.node) is None and not self._is_member(record.node):
                await self._delete(record.model, record.attempt)

    async def _delete(self, model: str, attempt: int) -> None:
        if not self._placements.is_ours(model, attempt):
            log.info("placement of %s (attempt %d) is stale; deleting it", model, attempt)
            await self._placements.release(model, attempt)

    async def _sweep_later(self) -> None:
        await asyncio.sleep(GRACE_S)
        await self.sweep()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), SllmError):
            log.warning("placements were not reconciled: %s", error.message)
