# SPDX-License-Identifier: Apache-2.0
"""Unbinding a replica: the agent is told, then the table and the placement record follow."""

from __future__ import annotations

import logging

from serverlessllm.errors import SllmError, StaleAttemptError
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.placements import Placements
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.wire.agent import UnloadRequest

log = logging.getLogger(__name__)


class Unbinder:
    """The only way in which the orchestrator ends a replica."""

    def __init__(self, agents: Agents, table: ReplicaTable, placements: Placements) -> None:
        self._agents = agents
        self._table = table
        self._placements = placements

    async def unbind(self, replica: Replica, *, only_idle: bool, drop_bytes: bool = False) -> bool:
        """Whether the replica is gone now. With `only_idle` a busy one stays, and False is the answer.

        New requests are kept away while the agent is asked. An unreachable agent keeps its replica: its
        own events will tell.
        """
        if only_idle and replica.num_inflight:
            return False
        was_draining, replica.is_draining = replica.is_draining, True
        request = UnloadRequest(
            model=replica.model,
            revision=replica.revision,
            attempt=replica.attempt,
            only_idle=only_idle,
            drop_bytes=drop_bytes,
        )
        try:
            result = await replica.link.client.unload(request)
        except StaleAttemptError:
            self._table.drop(replica)
            return True
        except SllmError as error:
            log.warning("unload of %s on %s: %s", replica.model, replica.link.agent_id, error.message)
            return False
        finally:
            replica.is_draining = was_draining
        if only_idle and not result.unloaded:
            return False
        self._table.drop(replica)
        self._placements.settle(replica.model, replica.attempt, is_ready=False)
        return True

    async def unbind_all(self, model: str, revision: str | None, *, drop_bytes: bool) -> int:
        """Unbind every replica of the model, and free the revision's memory if asked to; returns how many."""
        num_unbound = 0
        for replica in self._table.of(model):
            num_unbound += await self.unbind(replica, only_idle=False, drop_bytes=drop_bytes)
        if drop_bytes and revision is not None:
            await self._drop_bytes(model, revision)
        return num_unbound

    async def _drop_bytes(self, model: str, revision: str) -> None:
        """Free the revision on agents that hold it without a replica."""
        attempt = await self._placements.next_attempt(model)
        for link in self._agents.alive():
            if revision not in link.state.regions:
                continue
            request = UnloadRequest(model=model, revision=revision, attempt=attempt, drop_bytes=True)
            try:
                await link.client.unload(request)
            except SllmError as error:
                log.warning("bytes of %s stay on %s: %s", model, link.agent_id, error.message)
