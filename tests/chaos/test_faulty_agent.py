# SPDX-License-Identifier: Apache-2.0
"""One of three agents answers 500, is dead, or dies under its streams: nobody notices, and it gets less to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import aiohttp
import pytest

from chaos.harness.ask import Ask, right_answer
from chaos.harness.client import Client, Outcome
from chaos.harness.parts import SECRET, ServerPart
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.sdk.agent import AgentClient
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import AsyncClient
from serverlessllm.sdk.orchestrator import Client as SyncClient
from serverlessllm.text.tokenizer import TextModel
from serverlessllm.wire.agent import LoadRequest
from support.cluster import Cluster
from support.failing_proxy import FailingProxy, failing_proxy
from support.metadata_servers import RedisProcess, free_port
from support.model_dirs import write_simulated
from support.platform import eventually

NUM_AGENTS: Final = 3
MODEL: Final = "m"


@dataclass
class Trio:
    """Three agents behind proxies, each with a replica of one model, and an orchestrator in front."""

    front: ServerPart
    agents: list[LocalServer]
    proxies: list[FailingProxy]
    text: TextModel

    async def ask(self, number: int, *, at_once: int, max_tokens: int) -> list[Outcome]:
        """So many streams, each checked to its last id."""
        turn, pick = asyncio.Semaphore(at_once), Random(number)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one(index: int) -> Outcome:
                ask = Ask(index, MODEL, "chat", f"question {index}", pick.randrange(1 << 31), 1, max_tokens)
                async with turn:
                    return await Client(
                        session, [self.front], ask, right_answer(ask, self.text), run="t"
                    ).run()

            return await asyncio.gather(*(one(index) for index in range(number)))


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[Trio]:
    store = RedisProcess(tmp_path / "store")
    await asyncio.to_thread(store.start)
    try:
        with Cluster(tmp_path, f"redis://127.0.0.1:{store.port}") as cluster:
            async with _started(cluster, tmp_path) as running:
                yield running
    finally:
        store.kill()


@asynccontextmanager
async def _started(cluster: Cluster, home: Path) -> AsyncIterator[Trio]:
    async with AsyncExitStack() as stack:
        ports = [free_port() for _ in range(NUM_AGENTS)]
        proxies = [await stack.enter_async_context(failing_proxy(port)) for port in ports]
        agents = await asyncio.gather(
            *(
                asyncio.to_thread(
                    cluster.agent,
                    agent_port=str(port),
                    agent_advertise=proxy.url,
                    engine_kinds="simulated",
                    engine_max_num_seqs="64",
                )
                for port, proxy in zip(ports, proxies, strict=True)
            )
        )
        front = ServerPart("orchestrator", await asyncio.to_thread(cluster.orchestrator))
        front.is_down = False
        async with AsyncClient(front.url) as client:
            source = write_simulated(home / "m")
            view = await client.add_model(MODEL, str(source), wait=True, engine="simulated")
            artifact = front.server.data_dir / "artifacts" / str(view.revision)
            for number, agent in enumerate(agents):
                await _load(agent, artifact, attempt=number + 1)
        await asyncio.to_thread(eventually, lambda: num_replicas(front) == NUM_AGENTS)
        yield Trio(front, agents, proxies, TextModel.load(Artifact.open(artifact)))


def num_replicas(front: ServerPart) -> int:
    """Of the model, as the orchestrator sees them."""
    with SyncClient(front.url) as client:
        return len(client.get_model(MODEL).replicas)


async def _load(agent: LocalServer, artifact: Path, *, attempt: int) -> None:
    client = AgentClient(agent.url, SECRET)
    try:
        await client.load(
            LoadRequest(MODEL, artifact.name, str(artifact), "simulated", attempt, options={"token_s": 0.02})
        )
    finally:
        await client.aclose()


def check(outcomes: Sequence[Outcome]) -> None:
    """Every answer is right, over one connection."""
    assert [outcome.problem for outcome in outcomes if outcome.problem] == []
    assert {outcome.num_connections for outcome in outcomes} == {1}


async def test_agent_that_answers_500_fails_no_request_and_gets_less_to_do(trio: Trio) -> None:
    trio.proxies[0].fails = True
    check(await trio.ask(200, at_once=20, max_tokens=10))
    bad, *good = [proxy.num_requests for proxy in trio.proxies]
    assert bad < min(good) / 2


async def test_agent_that_is_dead_fails_no_request(trio: Trio) -> None:
    trio.agents[0].kill()
    check(await trio.ask(200, at_once=20, max_tokens=10))


async def test_agent_that_dies_under_100_streams_cuts_none(trio: Trio) -> None:
    streams = asyncio.create_task(trio.ask(100, at_once=100, max_tokens=300))
    doomed = trio.proxies[0]
    await asyncio.to_thread(
        eventually, lambda: doomed.num_open >= 10 and doomed.num_blocks >= 3 * doomed.num_open
    )
    await asyncio.to_thread(trio.agents[0].kill)
    check(await streams)
