# SPDX-License-Identifier: Apache-2.0
"""Where running requests of a model may go: a replica on another agent, ready or brought up for them.

    seconds = 0 where a replica is ready, else the bytes that are missing in memory there / the observed bandwidth
              + our requests in flight there · 10 ms, so that equals share

Smallest wins. Agents that are drained, dead or without the engine are none.
"""

from __future__ import annotations

import asyncio
from typing import Final

from serverlessllm.errors import MigrationRefusedError, SllmError
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.placements import Placements
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.wire.agent import LoadRequest

PER_REQUEST_S: Final = 0.01
PRIOR_BYTES_PER_S: Final = 1e9
BIND_S: Final = 0.1


class Destinations:
    """For one event loop. Bringing a replica up is shared by all who want it there."""

    def __init__(self, agents: Agents, table: ReplicaTable, placements: Placements) -> None:
        self._agents = agents
        self._table = table
        self._placements = placements
        self._brought: dict[tuple[str, str], asyncio.Task[Replica]] = {}

    def best(self, record: ModelRecord, source: AgentLink) -> tuple[AgentLink, float] | None:
        """The cheapest agent for the model's requests, and its seconds; None where there is none."""
        found = [
            (self._seconds(record, link), link)
            for link in self._agents.alive()
            if link is not source and not link.is_drained and self._runs(record, link)
        ]
        if not found:
            return None
        seconds, link = min(found, key=lambda pair: pair[0])
        return link, seconds

    async def ready(self, record: ModelRecord, link: AgentLink) -> Replica:
        """A ready replica there. Raises the load's error."""
        replica = self._at(record, link)
        if replica is not None:
            return replica
        key = (record.name, link.address)
        task = self._brought.get(key)
        if task is None:
            task = self._brought[key] = asyncio.create_task(self._bring(record, link))
            task.add_done_callback(lambda _: self._brought.pop(key, None))
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Give up what is being brought."""
        tasks = list(self._brought.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _at(self, record: ModelRecord, link: AgentLink) -> Replica | None:
        ready = self._table.ready(record.name, record.revision)
        return next((replica for replica in ready if replica.link is link and not replica.is_loading), None)

    def _runs(self, record: ModelRecord, link: AgentLink) -> bool:
        base = link.state.base
        return base is not None and record.engine in base.engines and record.nbytes <= base.arena_budget_bytes

    def _seconds(self, record: ModelRecord, link: AgentLink) -> float:
        replica = self._at(record, link)
        if replica is not None:
            return (replica.num_inflight + replica.num_remote) * PER_REQUEST_S
        region = link.state.regions.get(record.revision or "")
        missing = 0 if region is not None and region.is_complete else record.nbytes
        return BIND_S + missing / PRIOR_BYTES_PER_S

    async def _bring(self, record: ModelRecord, link: AgentLink) -> Replica:
        revision = record.revision or ""
        if record.state != "ready":
            raise MigrationRefusedError(f"the bytes of {record.name} are not on the nodes")
        attempt = await self._placements.claim(record.name, revision, link.agent_id)
        request = LoadRequest(
            model=record.name,
            revision=revision,
            artifact=record.artifact or "",
            engine=record.engine,
            attempt=attempt,
            options=record.options,
            origins=record.origins,
        )
        is_ready = False
        try:
            result = await link.client.load(request)
            is_ready = True
        finally:
            self._placements.settle(record.name, attempt, is_ready=is_ready)
        replica = self._table.add(link, record.name, revision, result.attempt)
        replica.is_loading = result.is_streaming
        if result.is_streaming:
            await self._whole(replica)
        return replica

    async def _whole(self, replica: Replica) -> None:
        """Requests move to whole models only."""
        while replica.is_loading:
            await asyncio.sleep(0.02)
            if not replica.link.is_alive:
                raise SllmError(f"agent {replica.link.agent_id} was lost during the load")
