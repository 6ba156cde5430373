# SPDX-License-Identifier: Apache-2.0
"""Source or destination is killed at a step of a move: the client's answer is whole, and nothing decodes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serverlessllm.checkpoint.reader import Artifact
from support.agent_process import AgentProcess
from support.faulty_link import FaultyLink, faulty_link
from support.front import Front, eventually, running_front
from support.moving_front import ClientStream, MovingFront
from support.simulated_artifact import write_simulated_artifact

NUM_TOKENS = 500


@dataclass
class Killable:
    """Two agents as processes, each behind a link, and a front over them."""

    moving: MovingFront
    processes: list[AgentProcess]
    links: list[FaultyLink]
    artifact: Artifact

    @property
    def front(self) -> Front:
        return self.moving.front

    def start(self) -> tuple[ClientStream, asyncio.Task[None]]:
        return self.moving.start("r", "m", max_tokens=NUM_TOKENS)

    async def source(self) -> int:
        """Which of the two runs the request."""
        agent_id = (await self.moving.request("r"))["agent_id"]
        ids = [link.agent_id for link in self.front.orchestrator.agents.links]
        return ids.index(agent_id)

    async def move(self, to: int) -> httpx.Response:
        agent_id = self.front.orchestrator.agents.links[to].agent_id
        return await self.front.http.post("/admin/requests/r/migrate", json={"to": agent_id})


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Killable]:
    artifact = write_simulated_artifact(tmp_path / "a")
    async with AsyncExitStack() as stack:
        processes = [AgentProcess(tmp_path / f"n{n}") for n in range(2)]
        links = []
        for process in processes:
            await asyncio.to_thread(process.start)
            stack.callback(_stop, process)
            links.append(await stack.enter_async_context(faulty_link(process.url)))
        model = {
            "engine": "simulated",
            "revision": artifact.revision,
            "artifact": str(artifact.directory),
            "nbytes": artifact.index.weights_nbytes,
            "options": {"token_s": 0.01},
        }
        addresses = [link.url for link in links]
        front = await stack.enter_async_context(
            running_front(tmp_path / "o", [], addresses=addresses, models={"m": model}, wait=False)
        )
        await eventually(lambda: len(front.orchestrator.agents.alive()) == 2)
        front.http.timeout = httpx.Timeout(60.0)
        yield Killable(MovingFront(front, [], links, {"m": artifact}), processes, links, artifact)


def _stop(process: AgentProcess) -> None:
    with suppress(AssertionError, ProcessLookupError):
        process.__exit__()


async def warm(cluster: Killable) -> None:
    """Both nodes have a replica, so that steps come fast."""
    stream, reading = cluster.moving.start("warm", "m", max_tokens=200)
    await stream.until(3)
    agent_id = (await cluster.moving.request("warm"))["agent_id"]
    other = next(a.agent_id for a in cluster.front.orchestrator.agents.links if a.agent_id != agent_id)
    reply = await cluster.front.http.post("/admin/requests/warm/migrate", json={"to": other})
    assert reply.json()["result"]["state"] == "moved", reply.text
    await reading


@pytest.mark.parametrize("step", ["open", "round", "go", "attach"])
@pytest.mark.parametrize("victim", ["source", "destination"])
async def test_agent_killed_during_a_move_costs_its_client_nothing(
    cluster: Killable, step: str, victim: str
) -> None:
    await warm(cluster)
    stream, reading = cluster.start()
    await stream.until(20)
    source = await cluster.source()
    target = 1 - source
    doomed = cluster.processes[source if victim == "source" else target]
    killed = asyncio.Event()

    async def kill(seen: str) -> None:
        if seen == step and not killed.is_set():
            killed.set()
            await asyncio.to_thread(doomed.kill)

    cluster.links[target].on_step = kill
    moving = asyncio.create_task(cluster.move(target))
    await reading
    await asyncio.wait({moving}, timeout=30)
    assert killed.is_set()
    assert stream.is_done and stream.errors == []
    assert stream.token_ids == cluster.moving.expected(stream, NUM_TOKENS)
    survivor = cluster.processes[target if victim == "source" else source]
    await eventually(lambda: all(r.num_running == 0 for r in survivor.status().replicas))
