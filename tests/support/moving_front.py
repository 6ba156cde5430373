# SPDX-License-Identifier: Apache-2.0
"""A real orchestrator over real agents with simulated workers, whose running streams tests move about."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.engine.simulated.engine import expected_ids
from serverlessllm.text.tokenizer import TextModel
from support.faulty_link import FaultyLink, faulty_link
from support.front import Front, eventually, running_front
from support.running_agent import CHAT, AgentClient, running_agent
from support.simulated_artifact import VOCAB_SIZE, write_simulated_artifact


@dataclass
class ClientStream:
    """A streamed answer as its client gets it."""

    request_id: str
    model: str
    seed: int
    events: list[dict[str, Any]] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    is_done: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def token_ids(self) -> list[int]:
        return [
            i for event in self.events for choice in event.get("choices", []) for i in choice["token_ids"]
        ]

    @property
    def errors(self) -> list[Any]:
        return [event["error"] for event in self.events if "error" in event]

    async def until(self, num_tokens: int) -> None:
        """Wait until so many ids have come, or all."""
        while len(self.token_ids) < num_tokens and not self.is_done:
            self._changed.clear()
            await self._changed.wait()

    def add_line(self, line: str) -> None:
        if line == "data: [DONE]":
            self.is_done = True
        elif line.startswith("data: "):
            self.events.append(json.loads(line[6:]))
        elif line.startswith("id: "):
            self.seqs.append(int(line[4:]))
        self._changed.set()


@dataclass
class MovingFront:
    """`links[i]` is the way to `agents[i]`, for the front and for other agents."""

    front: Front
    agents: Sequence[AgentClient]
    links: Sequence[FaultyLink]
    artifacts: Mapping[str, Artifact]

    def start(
        self, request_id: str, model: str = "m0", **fields: Any
    ) -> tuple[ClientStream, asyncio.Task[None]]:
        """A streamed chat that runs in a task."""
        stream = ClientStream(request_id, model, fields.setdefault("seed", 7))
        body = {"model": model, "messages": CHAT, "stream": True, **fields}
        return stream, asyncio.create_task(self._read(stream, body))

    async def _read(self, stream: ClientStream, body: dict[str, Any]) -> None:
        headers = {"x-request-id": stream.request_id}
        call = self.front.http.stream("POST", "/v1/chat/completions", json=body, headers=headers)
        async with call as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                stream.add_line(line)

    def expected(self, stream: ClientStream, num: int) -> list[int]:
        """The ids of an answer that stays where it began."""
        prompt_ids = TextModel.load(self.artifacts[stream.model]).encode_chat(CHAT)
        return expected_ids(prompt_ids, stream.seed, 0, num, vocab_size=VOCAB_SIZE)

    async def request(self, request_id: str) -> dict[str, Any]:
        """`GET /admin/requests/{id}`."""
        found: dict[str, Any] = (await self.front.http.get(f"/admin/requests/{request_id}")).json()["request"]
        return found

    async def at(self, request_id: str) -> AgentClient:
        """Where it runs."""
        agent_id = (await self.request(request_id))["agent_id"]
        return next(agent for agent in self.agents if agent.agent.agent_id == agent_id)

    def other(self, agent: AgentClient) -> AgentClient:
        """Some agent that is not this one."""
        return next(found for found in self.agents if found is not agent)

    def link(self, agent: AgentClient) -> FaultyLink:
        """The way to it."""
        return self.links[list(self.agents).index(agent)]

    async def move(self, request_id: str, to: AgentClient, **fields: Any) -> dict[str, Any]:
        """`POST /admin/requests/{id}/migrate`; the result."""
        body = {"to": to.agent.agent_id, **fields}
        reply = await self.front.http.post(f"/admin/requests/{request_id}/migrate", json=body)
        assert reply.status_code == 200, reply.text
        result: dict[str, Any] = reply.json()["result"]
        return result

    async def all_unused(self) -> None:
        """No agent decodes anything."""
        for agent in self.agents:
            await agent.until(lambda status: all(r.num_running == 0 for r in status.replicas))


@asynccontextmanager
async def moving_front(
    home: Path,
    num_agents: int = 2,
    *,
    num_models: int = 1,
    token_s: float = 0.005,
    **settings: Any,
) -> AsyncIterator[MovingFront]:
    """Agents without replicas, and models `m0`, `m1`, …; `settings` are of section `orchestrator`."""
    async with AsyncExitStack() as stack:
        artifacts = {f"m{n}": write_simulated_artifact(home / "a", f"m{n}") for n in range(num_models)}
        agents, links = [], []
        for number in range(num_agents):
            engine = {"max_num_seqs": 32, "slots": num_models}
            agents.append(await stack.enter_async_context(running_agent(home / f"n{number}", engine=engine)))
            links.append(await stack.enter_async_context(faulty_link(agents[-1].url)))
        models = {
            name: {
                "engine": "simulated",
                "revision": artifact.revision,
                "artifact": str(artifact.directory),
                "nbytes": artifact.index.weights_nbytes,
                "options": {"token_s": token_s},
            }
            for name, artifact in artifacts.items()
        }
        addresses = [link.url for link in links]
        front = await stack.enter_async_context(
            running_front(home / "o", [], addresses=addresses, models=models, wait=False, **settings)
        )
        await eventually(lambda: len(front.orchestrator.agents.alive()) == num_agents)
        front.http.timeout = httpx.Timeout(60.0)
        yield MovingFront(front, agents, links, artifacts)
