# SPDX-License-Identifier: Apache-2.0
"""A real orchestrator behind HTTP, over a real SQLite store, in front of scripted agents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from serverlessllm.app.http_server import HttpServer, listen, start_http
from serverlessllm.clock import SystemClock
from serverlessllm.config import Config, replace
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import ModelRecord, encode
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.orchestrator.api import create_app
from serverlessllm.orchestrator.orchestrator import Orchestrator
from support.fake_agent import SECRET, FakeAgent

MODEL: Final = "org/m"
REVISION: Final = "0123456789abcdef0123456789abcdef"
PATIENCE_S: Final = 30.0


async def eventually(probe: Callable[[], object]) -> None:
    """Poll until `probe` gives something true; fails when that takes longer than anything sane."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (seen := probe()):
        assert time.monotonic() < deadline_s, f"last seen: {seen!r}"
        await asyncio.sleep(0.005)


@dataclass
class Answer:
    """A streamed answer, line by line."""

    status: int
    headers: Mapping[str, str]
    raw: bytes = b""

    @property
    def comments(self) -> list[str]:
        return [line[2:] for line in self.raw.decode().split("\n") if line.startswith(": ")]


@dataclass
class Front:
    """The running front. `http` is a client of it; requests of one model unless a test says otherwise."""

    orchestrator: Orchestrator
    store: SqliteStore
    server: HttpServer
    http: httpx.AsyncClient
    agents: list[FakeAgent] = field(default_factory=list)

    @property
    def agent(self) -> FakeAgent:
        return self.agents[0]

    def chat_body(self, **fields: Any) -> dict[str, Any]:
        return {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], **fields}

    async def chat(self, headers: Mapping[str, str] | None = None, **fields: Any) -> httpx.Response:
        """A chat without streaming."""
        return await self.http.post("/v1/chat/completions", json=self.chat_body(**fields), headers=headers)

    async def stream(self, **fields: Any) -> Answer:
        """A streamed chat, read to its end."""
        body = self.chat_body(stream=True, **fields)
        async with self.http.stream("POST", "/v1/chat/completions", json=body) as response:
            return Answer(response.status_code, response.headers, await response.aread())

    async def until_ready(self) -> None:
        """Wait until every agent that runs is seen alive."""
        await eventually(lambda: len(self.orchestrator.agents.alive()) == len(self.agents))


async def put_model(store: SqliteStore, name: str = MODEL, **fields: Any) -> None:
    """Register a model that is ready, as a finished registration leaves it."""
    defaults: dict[str, Any] = {
        "name": name,
        "state": "ready",
        "engine": "torch",
        "source": "/src",
        "created_at_s": 1.0,
        "revision": REVISION,
        "artifact": f"/artifacts/{REVISION}",
        "nbytes": 100,
    }
    await store.put(Keys.model(name), encode(ModelRecord(**{**defaults, **fields})))


@asynccontextmanager
async def running_front(
    home: Path,
    agents: list[FakeAgent],
    *,
    addresses: list[str] | None = None,
    ingest_url: str = "http://127.0.0.1:1",
    models: Mapping[str, Mapping[str, Any]] | None = None,
    wait: bool = True,
    **settings: Any,
) -> AsyncIterator[Front]:
    """A front with one ready model (or `models`); `settings` are of section `orchestrator`."""
    config = replace(Config(), {"data_dir": str(home), "orchestrator": {"hold_silently_s": 0.05, **settings}})
    async with AsyncExitStack() as stack:
        for agent in agents:
            await agent.start()
            stack.push_async_callback(agent.stop)
        store = await SqliteStore.open(home / "metadata.sqlite")
        stack.push_async_callback(store.close)
        for name, fields in ({MODEL: {}} if models is None else models).items():
            await put_model(store, name, **fields)
        urls = addresses if addresses is not None else [agent.url for agent in agents]
        orchestrator = Orchestrator(config, store, SECRET, urls, ingest_url, SystemClock())
        await orchestrator.start()
        stack.push_async_callback(orchestrator.stop)
        server = await start_http(create_app(orchestrator), listen("127.0.0.1", 0, key="port"))
        stack.push_async_callback(server.stop)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S))
        front = Front(orchestrator, store, server, http, agents)
        if wait:
            await front.until_ready()
        yield front
