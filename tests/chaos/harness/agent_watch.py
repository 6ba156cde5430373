# SPDX-License-Identifier: Apache-2.0
"""Follows one agent's events as an orchestrator does, over its restarts, and notes every load that it began.

A load is a replica that comes into being; the attempt in its first event is the claim that it was made for.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from serverlessllm.errors import SllmError
from serverlessllm.orchestrator.agent_state import AgentState
from serverlessllm.sdk.agent import AgentClient
from serverlessllm.wire.agent import ReplicaStatus
from serverlessllm.wire.events import AgentEvent, ReplicaChanged, Snapshot

_RETRY_S = 0.1


@dataclass(frozen=True)
class Load:
    """One load that an agent began."""

    model: str
    attempt: int
    agent: str


class AgentWatch:
    """`run` until cancelled."""

    def __init__(self, name: str, url: str, secret: str) -> None:
        self.name = name
        self.state = AgentState()
        self.loads: list[Load] = []
        self._client = AgentClient(url, secret)
        self._known: set[tuple[str, str]] = set()
        self._boot_id = ""

    async def run(self) -> None:
        """Follow, for ever."""
        seq: int | None = None
        while True:
            try:
                async with aclosing(self._client.events(seq)) as events:
                    async for number, event in events:
                        seq = number
                        self._take(event)
            except SllmError:
                await asyncio.sleep(_RETRY_S)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    def workers(self) -> list[int]:
        """Process ids that serve replicas, as last heard."""
        return [replica.pid for replica in self.state.replicas.values() if replica.pid]

    def _take(self, event: AgentEvent) -> None:
        self.state.apply(event)
        if isinstance(event, Snapshot):
            if event.status.boot_id != self._boot_id:
                self._boot_id = event.status.boot_id
                self._known.clear()
            present = {(replica.model, replica.revision) for replica in event.status.replicas}
            self._known &= present
            for replica in event.status.replicas:
                self._note(replica)
        elif isinstance(event, ReplicaChanged):
            self._note(event.replica)

    def _note(self, replica: ReplicaStatus) -> None:
        key = (replica.model, replica.revision)
        if replica.state == "gone":
            self._known.discard(key)
        elif key not in self._known:
            self._known.add(key)
            self.loads.append(Load(replica.model, replica.attempt, self.name))
