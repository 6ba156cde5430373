# SPDX-License-Identifier: Apache-2.0
"""Fronts over real agents that a test may kill, and streams that are watched while it does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.engine.simulated.engine import expected_ids
from serverlessllm.text.tokenizer import TextModel
from support.agent_process import AgentProcess
from support.front import MODEL, Front, running_front
from support.simulated_artifact import VOCAB_SIZE, write_simulated_artifact

CHAT: Final[list[dict[str, Any]]] = [{"role": "user", "content": "Tell me a long story."}]
PATIENCE_S: Final = 60.0


@dataclass
class Stream:
    """What a client has of one answer. `texts`, `ids`, `finishes` by choice."""

    request_id: str = ""
    texts: dict[int, str] = field(default_factory=dict)
    ids: dict[int, list[int]] = field(default_factory=dict)
    finishes: dict[int, str] = field(default_factory=dict)
    seqs: list[int] = field(default_factory=list)
    usage: dict[str, int] | None = None
    error: dict[str, Any] | None = None
    is_done: bool = False
    num_events: int = 0

    @property
    def num_ids(self) -> int:
        return sum(len(ids) for ids in self.ids.values())

    def take(self, line: str) -> None:
        """One line of the stream."""
        if line.startswith("id: "):
            self.seqs.append(int(line[4:]))
        elif line == "data: [DONE]":
            self.is_done = True
        elif line.startswith("data: "):
            self._chunk(json.loads(line[6:]))

    def _chunk(self, chunk: dict[str, Any]) -> None:
        self.num_events += 1
        self.error = chunk.get("error", self.error)
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices", []):
            index = choice["index"]
            text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            self.texts[index] = self.texts.get(index, "") + text
            self.ids.setdefault(index, []).extend(choice["token_ids"])
            if choice["finish_reason"]:
                self.finishes[index] = choice["finish_reason"]


@dataclass
class Nodes:
    """The front, its agents, and the model that they have."""

    front: Front
    agents: Sequence[AgentProcess]
    artifact: Artifact

    def expected(self, num: int, *, seed: int, choice: int = 0) -> list[int]:
        """The first `num` ids of the chat's answer."""
        prompt_ids = TextModel.load(self.artifact).encode_chat(CHAT)
        return expected_ids(prompt_ids, seed, choice, num, vocab_size=VOCAB_SIZE)

    def text_of(self, ids: Sequence[int]) -> str:
        """What ids read."""
        detokenizer = TextModel.load(self.artifact).detokenizer()
        return "".join(detokenizer.push(token_id) for token_id in ids) + detokenizer.flush()

    def busy(self) -> AgentProcess:
        """The agent that has a request."""
        return next(
            agent for agent in self.agents if any(replica.num_running for replica in agent.status().replicas)
        )


@asynccontextmanager
async def running_nodes(
    home: Path,
    num_agents: int,
    *,
    options: Mapping[str, float] | None = None,
    agent: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Nodes]:
    """`num_agents` processes and a front that knows them; `agent` and `settings` are of those two sections."""
    artifact = write_simulated_artifact(home / "artifacts")
    model = {
        "engine": "simulated",
        "revision": artifact.revision,
        "artifact": str(artifact.directory),
        "nbytes": artifact.index.weights_nbytes,
        "options": dict(options or {"token_s": 0.02}),
    }
    async with AsyncExitStack() as stack:
        agents = [
            AgentProcess(home / f"agent-{index}", agent=dict(agent or {})) for index in range(num_agents)
        ]
        for process in agents:
            await asyncio.to_thread(process.start)
            stack.callback(process.__exit__)
        urls = [process.url for process in agents]
        front = await stack.enter_async_context(
            running_front(home, [], addresses=urls, models={MODEL: model}, wait=False, **settings)
        )
        yield Nodes(front, agents, artifact)


async def read_stream(
    http: httpx.AsyncClient,
    body: Mapping[str, Any],
    *,
    headers: Mapping[str, str] | None = None,
    stream: Stream | None = None,
    on_line: Callable[[Stream], Any] = lambda stream: None,
) -> Stream:
    """A streamed chat to its end, or until the connection breaks; `stream` goes on where it was."""
    stream = stream or Stream()
    sent = {"model": MODEL, "messages": CHAT, "stream": True} | dict(body)
    async with http.stream(
        "POST", "/v1/chat/completions", json=sent, headers=headers, timeout=PATIENCE_S
    ) as response:
        stream.request_id = response.headers.get("x-request-id", "")
        if response.status_code != 200:
            stream.error = json.loads(await response.aread())["error"]
            return stream
        async for line in response.aiter_lines():
            stream.take(line)
            on_line(stream)
    return stream
