# SPDX-License-Identifier: Apache-2.0
"""Reads one stream of an agent as an orchestrator does: where the source says that it moves, it goes on there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import aiohttp
import msgspec

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.wire.agent import SECRET_HEADER
from serverlessllm.wire.migrate import MigrateRequest, MigrateResult, Moving
from serverlessllm.wire.openai import Endpoint
from serverlessllm.wire.run_name import RunName
from support.running_agent import SECRET, AgentClient, Reply, infer_body, infer_headers


class MovingReader:
    """`read` runs a request; `at` is the agent whose events are read now, `num_hops` how often that changed."""

    def __init__(self, agents: Sequence[AgentClient], artifact: Artifact, request_id: str) -> None:
        self.agents = agents
        self.reply = Reply(0, body={})
        self.request_id = request_id
        self.at = agents[0]
        self.num_hops = 0
        self.num_returns = 0
        self.returned = asyncio.Event()
        self.is_blind = False
        """He cannot reach destinations."""
        self._artifact = artifact
        self._seed = 0
        self._changed = asyncio.Event()

    async def read(
        self, start: AgentClient, body: dict[str, Any], *, endpoint: Endpoint = "chat", seed: int = 7
    ) -> Reply:
        """The whole answer, begun at `start`."""
        self.at, self._seed = start, seed
        headers = infer_headers(self._artifact, "m", endpoint, request_id=self.request_id, seed=seed)
        sent = headers.encode() | {SECRET_HEADER: SECRET}
        data = infer_body("m", endpoint, {"stream": True} | body)
        async with start.session.post(f"{start.url}/infer", data=data, headers=sent) as response:
            assert response.status == 200, await response.text()
            moving = await self._follow(response)
            while moving is not None:
                moving = await self._go_on(moving)
        return self.reply

    async def until_tokens(self, num: int) -> None:
        """Wait until so many ids have come, or all."""
        while len(self.reply.token_ids) < num and not self.reply.is_done:
            self._changed.clear()
            await self._changed.wait()

    async def _go_on(self, moving: Moving) -> Moving | None:
        """At the destination; back at the source where it has nothing."""
        source = self.at
        target = next(agent for agent in self.agents if agent.agent.agent_id == moving.agent_id)
        for agent in (source,) if self.is_blind else (target, source):
            name = RunName("default", self.request_id, self._seed, moving.hop)
            url = f"{agent.url}/infer/{self.request_id}?from={moving.seq}"
            with suppress(aiohttp.ClientConnectionError):
                async with agent.session.get(
                    url, headers=name.encode() | {SECRET_HEADER: SECRET}
                ) as response:
                    if response.status == 200:
                        self.at = agent
                        self.num_hops += agent is target
                        if agent is source:
                            self.num_returns += 1
                            self.returned.set()
                        return await self._follow(response)
        raise AssertionError(f"nobody has {self.request_id} after {moving}: {response.status}")

    async def _follow(self, response: aiohttp.ClientResponse) -> Moving | None:
        with suppress(aiohttp.ClientPayloadError):
            async for line in response.content:
                text = line.decode().rstrip("\n")
                if text.startswith(": moving "):
                    return msgspec.json.decode(text.removeprefix(": moving "), type=Moving)
                self.reply.add_line(text)
                self._changed.set()
                if self.reply.is_done:
                    return None
        raise AssertionError(f"the stream of {self.request_id} was cut")


async def migrate(
    source: AgentClient,
    to: AgentClient,
    request_id: str,
    *,
    move_id: str = "",
    address: str = "",
    then: Callable[[MigrateResult], None] = lambda result: None,
    **fields: Any,
) -> MigrateResult:
    """`POST /migrate`; what the source says. `address`: instead of the destination's own."""
    asked = MigrateRequest(
        request_id=request_id,
        tenant="default",
        move_id=move_id or f"{request_id}-{source.agent.agent_id}-{to.agent.agent_id}",
        dest_agent=to.agent.agent_id,
        dest_address=address or to.url,
        **fields,
    )
    reply = await source.post("/migrate", msgspec.to_builtins(asked))
    if reply.status != 200:
        return MigrateResult(asked.move_id, request_id, "stayed", reply.body["error"]["message"])
    result = msgspec.convert(reply.body, MigrateResult)
    then(result)
    return result
