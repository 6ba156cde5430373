# SPDX-License-Identifier: Apache-2.0
"""Moves running requests between agents: one that somebody names, or all of an agent that is to be empty.

Finds source and destination and has the source do it; the streams follow by what their source tells them
(`handover.py`), also those of other orchestrators.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from serverlessllm.errors import ConflictError, MigrationRefusedError, NotFoundError, SllmError
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.destinations import Destinations
from serverlessllm.orchestrator.models import Models
from serverlessllm.telemetry.timeline import Timeline, TimelineRing
from serverlessllm.types import base_name, mint_id
from serverlessllm.wire import trace_context
from serverlessllm.wire.migrate import MigrateRequest, MigrateResult, Mode, MoveReason, RunView
from serverlessllm.wire.moves import Evacuated, MoveView

log = logging.getLogger(__name__)

MAX_CONCURRENT: Final = 4
"""Moves away from one agent at a time: each costs its destination prompts."""
LOOK_S: Final = 0.01
NUM_LOOKS: Final = 500
MAX_SWEEPS: Final = 5
"""Requests that began meanwhile, or that did not move, are looked at so often."""


class Moves:
    """For one event loop."""

    def __init__(
        self,
        models: Models,
        agents: Agents,
        destinations: Destinations,
        ring: TimelineRing,
    ) -> None:
        self._models = models
        self._agents = agents
        self._destinations = destinations
        self._ring = ring

    async def move(self, request_id: str, to: str, mode: Mode = "auto") -> MoveView:
        """Move one of our own streams; `to` empty takes the cheapest destination.

        Raises: NotFoundError, ConflictError for a request that does not run, MigrationRefusedError, what a load says.
        """
        timeline = self._ring.get(request_id)
        if timeline is None:
            raise NotFoundError(f"request {request_id[:128]!r} is not among the recent ones", param="id")
        if timeline.state != "running" or timeline.agent_id is None:
            raise ConflictError(f"request {request_id} is {timeline.state}: only running ones move")
        if not timeline.is_stream:
            raise MigrationRefusedError(f"request {request_id} is no stream: it ends where it runs")
        source = self._link(timeline.agent_id)
        model = base_name(timeline.model)
        dest = self._link(to) if to else self._best(model, source)
        run = RunView(timeline.tenant, request_id, 0, 0, model, timeline.revision or "", 0, 0, True)
        view = await self._move(run, source, dest, "asked", mode)
        if view.result.state == "moved":
            await self._followed(timeline, dest)
        return view

    async def _followed(self, timeline: Timeline, dest: AgentLink) -> None:
        """Wait until its client's stream comes from there, or is over: what is asked next finds it so."""
        for _ in range(NUM_LOOKS):
            if timeline.agent_id == dest.agent_id or timeline.state != "running":
                return
            await asyncio.sleep(LOOK_S)

    async def evacuate(self, agent_id: str, mode: Mode = "auto", reason: MoveReason = "drain") -> Evacuated:
        """Move all streams away from an agent that takes nothing new. Raises: NotFoundError, UnreachableError."""
        source = self._link(agent_id)
        moves: list[MoveView] = []
        for _ in range(MAX_SWEEPS):
            runs = (await source.client.runs()).runs
            if not runs:
                break
            moves += await self.move_all(source, runs, mode, reason)
        status = await source.client.status()
        num_left = len((await source.client.runs()).runs)
        num_whole = sum(replica.num_running for replica in status.replicas) - num_left
        return Evacuated(moves=moves, num_left=num_left, num_whole=max(0, num_whole))

    async def move_all(
        self, source: AgentLink, runs: list[RunView], mode: Mode = "auto", reason: MoveReason = "drain"
    ) -> list[MoveView]:
        """Move these streams, a few at a time, each to the cheapest destination; what cannot move stays."""
        bound = asyncio.Semaphore(MAX_CONCURRENT)

        async def one(run: RunView) -> MoveView:
            async with bound:
                try:
                    dest = self._best(run.model, source)
                    return await self._move(run, source, dest, reason, mode)
                except SllmError as error:
                    log.warning("request %s stays on %s: %s", run.request_id, source.agent_id, error.message)
                    stayed = MigrateResult("", run.request_id, "stayed", error.message)
                    return MoveView(source=source.agent_id, destination="", model=run.model, result=stayed)

        return list(await asyncio.gather(*map(one, runs)))

    async def _move(
        self, run: RunView, source: AgentLink, dest: AgentLink, reason: MoveReason, mode: Mode
    ) -> MoveView:
        record = self._models.get(run.model)
        if dest is source:
            raise MigrationRefusedError(f"request {run.request_id} runs on {source.agent_id} already")
        if record.revision != run.revision:
            raise MigrationRefusedError(
                f"{run.model} has another revision now; request {run.request_id} ends where it runs"
            )
        moved = self._ring.get(run.request_id)
        if moved is not None:
            trace_context.enter(moved.trace)  # what is done for it from here on belongs to its trace
        replica = await self._destinations.ready(record, dest)
        replica.num_inflight += 1  # on its way: neither idle nor forgotten by who comes next
        try:
            asked = MigrateRequest(
                request_id=run.request_id,
                tenant=run.tenant,
                move_id=mint_id("move"),
                dest_agent=dest.agent_id,
                dest_address=dest.address,
                seed=run.seed,
                reason=reason,
                mode=mode,
            )
            result = await source.client.migrate(asked)
        finally:
            replica.num_inflight -= 1
        log.info(
            "request %s from %s to %s: %s %s",
            run.request_id,
            source.agent_id,
            dest.agent_id,
            result.state,
            result.message,
        )
        return MoveView(source=source.agent_id, destination=dest.agent_id, model=run.model, result=result)

    def _best(self, model: str, source: AgentLink) -> AgentLink:
        found = self._destinations.best(self._models.get(model), source)
        if found is None:
            raise MigrationRefusedError(f"no other node can run {model}: start one, or undrain one")
        return found[0]

    def _link(self, agent_id: str) -> AgentLink:
        link = self._agents.by_id(agent_id)
        if link is None:
            raise NotFoundError(f"no living agent {agent_id[:80]!r}; see `sllm node list`", param="id")
        return link
