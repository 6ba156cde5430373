# SPDX-License-Identifier: Apache-2.0
"""A real agent behind HTTP with simulated workers, and a client that speaks to it as an orchestrator does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from serverlessllm.agent.agent import Agent
from serverlessllm.agent.api import create_app
from serverlessllm.app.http_server import listen, start_http
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.clock import SystemClock
from serverlessllm.config import MIB, Config, replace
from serverlessllm.engine.simulated.engine import expected_ids
from serverlessllm.text.tokenizer import TextModel
from serverlessllm.wire.agent import SECRET_HEADER, AgentStatus, InferHeaders, LoadResult
from serverlessllm.wire.openai import Endpoint
from serverlessllm.wire.resume import CONTENT_TYPE, ResumeHead, encode_resume
from serverlessllm.wire.run_name import RunName
from support.simulated_artifact import VOCAB_SIZE

SECRET: Final = "test-secret"
POLL_S: Final = 0.01
PATIENCE_S: Final = 30.0
CHAT: Final[list[dict[str, Any]]] = [{"role": "user", "content": "Tell me a short story."}]


@dataclass
class Reply:
    """What a call brought: a status, and the JSON body or the parsed events of a stream."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    events: list[Any] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    is_done: bool = False

    @property
    def code(self) -> str:
        """The error's code."""
        found: str = self.body["error"]["code"]
        return found

    @property
    def token_ids(self) -> list[int]:
        """All ids of the answer."""
        choices = [choice for body in self.events or [self.body] for choice in body.get("choices", [])]
        return [token_id for choice in choices for token_id in choice["token_ids"]]

    @property
    def text(self) -> str:
        """All text of a chat's answer."""
        if not self.events:
            content: str = self.body["choices"][0]["message"]["content"]
            return content
        return "".join(
            choice["delta"]["content"] for body in self.events for choice in body.get("choices", [])
        )

    @property
    def finish(self) -> str | None:
        """The last finish reason that was given."""
        reasons = [
            choice["finish_reason"]
            for body in self.events or [self.body]
            for choice in body.get("choices", [])
        ]
        return reasons[-1] if reasons else None

    def add_line(self, line: str) -> None:
        """One line of a stream."""
        if line == "data: [DONE]":
            self.is_done = True
        elif line.startswith("data: "):
            self.events.append(json.loads(line[6:]))
        elif line.startswith("id: "):
            self.seqs.append(int(line[4:]))
        elif line.startswith(": "):
            self.comments.append(line[2:])


class AgentClient:
    """The orchestrator's side of one agent."""

    def __init__(self, agent: Agent, url: str, session: aiohttp.ClientSession) -> None:
        self.agent = agent
        self.url = url
        self.session = session
        self._num_asked = 0

    @property
    def last_run(self) -> RunName:
        """The name of the request that `infer` sent last."""
        return RunName("default", f"req-{self._num_asked}", seed=7)

    async def post(self, path: str, body: object) -> Reply:
        """A JSON call with the secret."""
        async with self.session.post(
            f"{self.url}{path}", json=body, headers={SECRET_HEADER: SECRET}
        ) as response:
            return Reply(response.status, dict(response.headers), await response.json())

    async def load(
        self, artifact: Artifact, model: str = "m", *, attempt: int = 1, **fields: object
    ) -> Reply:
        """`POST /load` for the agent's engine."""
        body = {
            "model": model,
            "revision": artifact.revision,
            "artifact": str(artifact.directory),
            "engine": self.agent.engines[0],
            "attempt": attempt,
        }
        return await self.post("/load", body | fields)

    async def loaded(
        self, artifact: Artifact, model: str = "m", *, attempt: int = 1, **fields: object
    ) -> LoadResult:
        """A load that must succeed."""
        reply = await self.load(artifact, model, attempt=attempt, **fields)
        assert reply.status == 200, reply.body
        return msgspec.convert(reply.body, LoadResult)

    async def unload(
        self, artifact: Artifact, model: str = "m", *, attempt: int = 1, **fields: object
    ) -> Reply:
        """`POST /unload`."""
        return await self.post(
            "/unload", {"model": model, "revision": artifact.revision, "attempt": attempt} | fields
        )

    async def infer(
        self,
        artifact: Artifact,
        body: dict[str, Any] | None = None,
        *,
        model: str = "m",
        endpoint: Endpoint = "chat",
        on_line: Callable[[Reply], None] = lambda reply: None,
        **headers: Any,
    ) -> Reply:
        """`POST /infer`: a chat of `max_tokens` 8 unless `body` says otherwise. `on_line` sees a growing stream."""
        self._num_asked += 1
        named = {"request_id": f"req-{self._num_asked}"} | headers
        sent = infer_headers(artifact, model, endpoint, **named).encode() | {SECRET_HEADER: SECRET}
        data = infer_body(model, endpoint, body)
        async with self.session.post(f"{self.url}/infer", data=data, headers=sent) as response:
            return await _read(response, on_line)

    async def resume(
        self,
        artifact: Artifact,
        head: ResumeHead,
        body: dict[str, Any] | None = None,
        *,
        model: str = "m",
        endpoint: Endpoint = "chat",
        **headers: Any,
    ) -> Reply:
        """`POST /infer` of a request whose answer was begun elsewhere: the next run of it."""
        sent = infer_headers(artifact, model, endpoint, **{"hop": 1} | headers).encode()
        data = encode_resume(head, infer_body(model, endpoint, body))
        async with self._resuming(sent, data) as response:
            return await _read(response)

    async def resume_raw(
        self, artifact: Artifact, head: ResumeHead, body: dict[str, Any], *, hop: int
    ) -> bytes:
        """The bytes of such a chat's rest."""
        sent = infer_headers(artifact, "m", "chat", hop=hop).encode()
        async with self._resuming(sent, encode_resume(head, infer_body("m", "chat", body))) as response:
            return await response.read()

    def _resuming(self, sent: dict[str, str], data: bytes) -> aiohttp.client._RequestContextManager:
        headers = sent | {SECRET_HEADER: SECRET, "content-type": CONTENT_TYPE}
        return self.session.post(f"{self.url}/infer", data=data, headers=headers)

    async def raw(
        self, artifact: Artifact, body: dict[str, Any], *, endpoint: Endpoint = "chat", **headers: Any
    ) -> bytes:
        """A stream's bytes, as an orchestrator gets them."""
        sent = infer_headers(artifact, "m", endpoint, **headers).encode() | {SECRET_HEADER: SECRET}
        data = infer_body("m", endpoint, body)
        async with self.session.post(f"{self.url}/infer", data=data, headers=sent) as response:
            return await response.read()

    async def attach(self, from_seq: int, name: RunName | None = None) -> Reply:
        """`GET /infer/{request_id}`: the rest of a stream that runs or ran here."""
        name = name or self.last_run
        url = f"{self.url}/infer/{name.request_id}?from={from_seq}"
        async with self.session.get(url, headers=name.encode() | {SECRET_HEADER: SECRET}) as response:
            return await _read(response)

    async def cancel(self, name: RunName | None = None) -> Reply:
        """`DELETE /infer/{request_id}`."""
        name = name or self.last_run
        url = f"{self.url}/infer/{name.request_id}"
        async with self.session.delete(url, headers=name.encode() | {SECRET_HEADER: SECRET}) as response:
            return await _read(response)

    async def status(self) -> AgentStatus:
        """`GET /status`."""
        async with self.session.get(f"{self.url}/status", headers={SECRET_HEADER: SECRET}) as response:
            return msgspec.json.decode(await response.read(), type=AgentStatus)

    async def until(self, holds: Callable[[AgentStatus], bool]) -> AgentStatus:
        """Poll `/status` until `holds`; fails when that takes longer than anything sane."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            status = await self.status()
            if holds(status):
                return status
            assert time.monotonic() < deadline_s, status
            await asyncio.sleep(POLL_S)


async def _read(
    response: aiohttp.ClientResponse, on_line: Callable[[Reply], None] = lambda reply: None
) -> Reply:
    """An answer to its end; one that is cut is what came of it."""
    reply = Reply(response.status, dict(response.headers))
    if "event-stream" not in response.content_type:
        reply.body = await response.json(content_type=None)
        return reply
    with suppress(aiohttp.ClientPayloadError):
        async for line in response.content:
            reply.add_line(line.decode().rstrip("\n"))
            on_line(reply)
    return reply


def infer_body(model: str, endpoint: Endpoint, changes: dict[str, Any] | None = None) -> bytes:
    """A client's body: 8 tokens unless `changes` say otherwise."""
    default: dict[str, Any] = {"model": model, "max_tokens": 8}
    default |= {"messages": CHAT} if endpoint == "chat" else {"prompt": "Once upon a time"}
    return json.dumps(default | (changes or {})).encode()


def infer_headers(artifact: Artifact, model: str, endpoint: Endpoint, **changes: Any) -> InferHeaders:
    """Headers as an orchestrator sends them."""
    headers = InferHeaders(
        request_id="req-1",
        created_s=1_700_000_000,
        endpoint=endpoint,
        model=model,
        revision=artifact.revision,
        attempt=1,
        deadline_ms=0,
        tenant="default",
        priority=0,
        cache_salt="",
        seed=7,
    )
    return msgspec.structs.replace(headers, **changes)


def expected(
    artifact: Artifact, num: int, *, messages: Sequence[dict[str, Any]] = tuple(CHAT), seed: int = 7
) -> list[int]:
    """The first `num` ids of the simulated answer to a chat."""
    prompt_ids = TextModel.load(artifact).encode_chat(messages)
    return expected_ids(prompt_ids, seed, 0, num, vocab_size=VOCAB_SIZE)


def text_of(artifact: Artifact, token_ids: Sequence[int]) -> str:
    """What an answer of these ids reads."""
    detokenizer = TextModel.load(artifact).detokenizer()
    return "".join(detokenizer.push(token_id) for token_id in token_ids) + detokenizer.flush()


@asynccontextmanager
async def running_agent(
    data_dir: Path, *, engines: Any = ("simulated",), **sections: dict[str, Any]
) -> AsyncIterator[AgentClient]:
    """Start an agent with the given settings by section, serve it on a free port, stop it at the end."""
    small = {
        "data_dir": str(data_dir),
        "arena": {"budget_bytes": 32 * MIB, "extent_bytes": 2 * MIB, "huge_pages": "never"},
        "engine": {"slots": 1, "max_num_seqs": 4, "max_replicas": 4, "threads": 1, "dtype": "float32"},
    }
    for section, values in sections.items():
        small[section] = {**small.get(section, {}), **values}  # type: ignore[dict-item]  # sections are mappings
    config: Config = replace(Config(), small)
    agent = Agent(config, SECRET, SystemClock(), engines=engines)
    await agent.start()
    try:
        server = await start_http(create_app(agent), listen("127.0.0.1", 0, key="agent.port"))
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                yield AgentClient(agent, server.url, session)
        finally:
            await server.stop()
    finally:
        await agent.stop()
