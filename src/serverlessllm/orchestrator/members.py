# SPDX-License-Identifier: Apache-2.0
"""Which agents there are: those that hold a lease under `agents/`, as the store's watch tells; and who is drained.

An agent that was told to stop says so in its record, and is drained by that until the record is gone.

While the store is away the last view stays. An agent whose record is gone is given up, unless it goes on speaking to
us: then it has GRACE_S to come back to the store (the store may have lost its data, not the node).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from serverlessllm.clock import Clock
from serverlessllm.errors import ConflictError, NotFoundError
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import AgentRecord, DrainRecord
from serverlessllm.metadata.store import MetadataStore
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.watched import Watched

GRACE_S: Final = 10.0
LOOK_AGAIN_S: Final = 1.0


class Members:
    """Keeps `agents` in step with the store. Agents given by address are left alone."""

    def __init__(
        self,
        store: MetadataStore,
        agents: Agents,
        changes: Changes,
        clock: Clock,
        on_stopping: Callable[[AgentLink], None],
    ) -> None:
        """`on_stopping` is called once for each agent that says it is stopping."""
        self._records: Watched[AgentRecord] = Watched(store, Keys.AGENTS, AgentRecord, changes)
        self._drains: Watched[DrainRecord] = Watched(store, Keys.DRAINED, DrainRecord, changes)
        self._agents = agents
        self._changes = changes
        self._clock = clock
        self._absent_since_s: dict[str, float] = {}
        self._found: set[str] = set()
        self._stopping: set[str] = set()
        self._on_stopping = on_stopping
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the store, follow. Raises MetadataUnavailableError."""
        await self._records.start()
        await self._drains.start()
        await self._agree()
        self._task = asyncio.create_task(self._run(), name="members")

    async def stop(self) -> None:
        """Stop following; the agents stay as they are."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._records.stop()
        await self._drains.stop()

    def has(self, agent_id: str) -> bool:
        """Whether that agent holds its lease."""
        return self._records.get(Keys.agent(agent_id)) is not None

    async def drain(self, agent_id: str, *, is_drained: bool, is_leaving: bool = False) -> None:
        """Let the agent take nothing new, or again; `is_leaving`: its ready replicas too.

        Raises NotFoundError; MetadataUnavailableError.
        """
        key = Keys.drained(agent_id)
        known = self._drains.get(key)
        if not is_drained:
            if known is not None:
                await self._drains.delete(key)
        elif known is None or (is_leaving and not known.is_leaving):
            if not any(agent_id == link.agent_id for link in self._agents.links):
                raise NotFoundError(f"no agent {agent_id[:80]!r}; see `sllm node list`", param="id")
            record = DrainRecord(id=agent_id, since_s=self._clock.wall_s(), is_leaving=is_leaving)
            try:
                await self._drains.write(key, record, replaces=known)
            except ConflictError:
                return  # another was faster with the same
        await self._agree()

    async def _run(self) -> None:
        while True:
            await self._changes.wait(LOOK_AGAIN_S)
            await self._agree()

    async def _agree(self) -> None:
        wanted = {record.address for record in self._records.values()}
        for address in wanted - {link.address for link in self._agents.links}:
            self._found.add(address)
            self._agents.add(address)
        stopping = {record.address for record in self._records.values() if record.is_stopping}
        now_s = self._clock.monotonic_s()
        for link in list(self._agents.links):
            drain, is_stopping = self._drains.get(Keys.drained(link.agent_id)), link.address in stopping
            link.is_drained = drain is not None or is_stopping
            link.is_leaving = is_stopping or (drain is not None and drain.is_leaving)
            if is_stopping and link.address not in self._stopping:
                self._on_stopping(link)
            if link.address in wanted or link.address not in self._found:
                self._absent_since_s.pop(link.address, None)
                continue
            since_s = self._absent_since_s.setdefault(link.address, now_s)
            if not link.is_alive or now_s - since_s >= GRACE_S:
                self._found.discard(link.address)
                self._absent_since_s.pop(link.address)
                await self._agents.remove(link)
        self._stopping = stopping
