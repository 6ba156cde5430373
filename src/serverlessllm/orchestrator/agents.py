# SPDX-License-Identifier: Apache-2.0
"""All agents that we follow. Which of them a model goes to is placement's business."""

from __future__ import annotations

import asyncio
from functools import partial

from serverlessllm.clock import Clock
from serverlessllm.errors import NotFoundError
from serverlessllm.orchestrator.agent_link import AgentLink, AgentObserver
from serverlessllm.sdk.tls import ClientTls
from serverlessllm.types import Tier
from serverlessllm.wire.admin import AgentView, ReplicaView
from serverlessllm.wire.agent import LoadProgressStatus


class Agents:
    """One link per address, followed from `start` to `stop`."""

    def __init__(
        self,
        addresses: list[str],
        secret: str,
        clock: Clock,
        observer: AgentObserver,
        tls: ClientTls | None = None,
    ) -> None:
        self.links: list[AgentLink] = []
        self._new_link = partial(AgentLink, secret=secret, clock=clock, observer=observer, tls=tls)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_started = False
        for address in addresses:
            self.add(address)

    async def start(self) -> None:
        """Begin to follow; does not wait for anyone to answer."""
        self._is_started = True
        for link in self.links:
            self._follow(link)

    def add(self, address: str) -> None:
        """Follow one more agent; from `start` on, if that is to come."""
        link = self._new_link(address)
        self.links.append(link)
        if self._is_started:
            self._follow(link)

    async def remove(self, link: AgentLink) -> None:
        """Follow it no longer: what runs there is lost to us."""
        self.links.remove(link)
        task = self._tasks.pop(link.address, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        link.give_up("it left the cluster")
        await link.aclose()

    def _follow(self, link: AgentLink) -> None:
        self._tasks[link.address] = asyncio.create_task(link.run(), name=f"follow {link.address}")

    async def stop(self) -> None:
        """Stop following and close every connection."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for link in self.links:
            await link.aclose()

    def alive(self) -> list[AgentLink]:
        """Those that may be given work."""
        return [link for link in self.links if link.is_alive]

    def by_id(self, agent_id: str) -> AgentLink | None:
        """The living agent of that name."""
        return next((link for link in self.links if link.is_alive and link.agent_id == agent_id), None)

    def views(self) -> list[AgentView]:
        """Every agent, for `/admin/agents`."""
        return [_view(link) for link in self.links]

    def view(self, agent_id: str) -> AgentView:
        """One agent by id or address. Raises NotFoundError."""
        for link in self.links:
            if agent_id in (link.agent_id, link.address):
                return _view(link)
        raise NotFoundError(f"no agent {agent_id[:80]!r}; see `GET /admin/agents`", param="id")

    def replicas_of(self, model: str) -> list[ReplicaView]:
        """Where the model is bound or being bound, as the living agents say."""
        return [
            ReplicaView(agent_id=link.agent_id, status=status)
            for link in self.alive()
            for (name, _), status in link.state.replicas.items()
            if name == model
        ]

    def loads_of(self, model: str) -> list[LoadProgressStatus]:
        """Loads of the model that are under way."""
        return [
            load for link in self.alive() for (name, _), load in link.state.loads.items() if name == model
        ]

    def memory_tier(self, revision: str) -> Tier | None:
        """`dram` if some living agent holds all bytes of the revision, else None."""
        for link in self.alive():
            region = link.state.regions.get(revision)
            if region is not None and region.is_complete:
                return "dram"
        return None


def _view(link: AgentLink) -> AgentView:
    return AgentView(
        address=link.address,
        is_alive=link.is_alive,
        silent_s=round(link.silent_s, 3),
        status=link.state.status(),
        is_drained=link.is_drained,
        problem=link.problem,
        breaker=link.breaker.state,
    )
