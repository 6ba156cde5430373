# SPDX-License-Identifier: Apache-2.0
"""A replica that takes requests while its bytes still arrive, at a real agent with simulated workers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.config import MIB
from serverlessllm.wire.agent import AGENT_TIMING_HEADER, AgentStatus, InferTiming, LoadResult
from support.gated_origin import GatedOrigin, elsewhere, gated_origin
from support.running_agent import AgentClient, Reply, expected, running_agent
from support.simulated_artifact import write_simulated_artifact

WEIGHTS_BYTES = 24 * MIB
"""Four shards of 6 MiB; two are on their way at a time."""
HALF_BYTES = 12 * MIB


@dataclass
class Node:
    """An agent that lacks the artifact, and the origin that has it."""

    client: AgentClient
    origin: GatedOrigin
    home: Path

    @property
    def artifact(self) -> Artifact:
        return self.origin.artifact

    async def load(self, model: str = "m", attempt: int = 1) -> Reply:
        body = {
            "model": model,
            "revision": self.artifact.revision,
            "artifact": str(elsewhere(self.home, self.artifact)),
            "engine": "simulated",
            "attempt": attempt,
            "origins": [self.origin.url],
        }
        return await self.client.post("/load", body)

    async def streaming(self, model: str = "m", attempt: int = 1) -> LoadResult:
        """A load that must answer before its bytes are there."""
        reply = await self.load(model, attempt)
        assert reply.status == 200, reply.body
        result = msgspec.convert(reply.body, LoadResult)
        assert result.is_streaming
        return result

    async def asked(self, model: str = "m", *, num_running: int = 1) -> asyncio.Task[Reply]:
        """A request that the replica has taken; then `num_running` of them run there."""
        call = asyncio.create_task(self.client.infer(self.artifact, {"max_tokens": 3}, model=model))
        await self.client.until(
            lambda status: [r.num_running for r in status.replicas if r.model == model] == [num_running]
        )
        return call

    async def empty(self) -> AgentStatus:
        """Until nothing is left of any load."""
        return await self.client.until(
            lambda status: (
                not (status.replicas or status.regions or status.loads or status.arena_used_bytes)
                and status.slots["simulated.bound"] == 0
            )
        )


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[GatedOrigin]:
    with gated_origin(write_simulated_artifact(tmp_path / "origin", nbytes=WEIGHTS_BYTES)) as gated:
        yield gated


@pytest.fixture
async def node(tmp_path: Path, origin: GatedOrigin) -> AsyncIterator[Node]:
    home = tmp_path / "d"
    async with running_agent(home, ingest={"allow_private_urls": True}) as client:
        yield Node(client, origin, home)
        origin.close()


async def test_request_that_came_before_the_bytes_is_answered(node: Node) -> None:
    result = await node.streaming()
    assert (result.start, result.tier, result.nbytes) == ("cold", "remote", WEIGHTS_BYTES)
    call = await node.asked()
    status = await node.client.status()
    assert [(r.state, r.is_loading) for r in status.replicas] == [("ready", True)]
    assert [(r.is_complete, r.is_pinned) for r in status.regions] == [(False, True)]
    assert [load.phase for load in status.loads] == ["fetch"]
    node.origin.let()
    reply = await call
    assert reply.token_ids == expected(node.artifact, 3)
    status = await node.client.until(lambda status: not status.loads)
    assert [(r.is_complete, r.is_pinned, r.is_verified) for r in status.regions] == [(True, True, True)]
    assert not status.replicas[0].is_loading


async def test_timing_tells_waiting_from_computing_and_the_load_beside(node: Node) -> None:
    await node.streaming()
    call = await node.asked()
    node.origin.let()
    timing = msgspec.json.decode((await call).headers[AGENT_TIMING_HEADER], type=InferTiming)
    assert timing.load is not None
    assert (timing.load.start, timing.load.tier, timing.load.nbytes) == ("cold", "remote", WEIGHTS_BYTES)
    assert timing.load.load_ms >= timing.stall_ms > 0
    after = await node.client.infer(node.artifact, {"max_tokens": 1})
    hot = msgspec.json.decode(after.headers[AGENT_TIMING_HEADER], type=InferTiming)
    assert (hot.stall_ms, hot.load) == (0, None)


async def test_last_client_to_leave_ends_the_load(node: Node) -> None:
    await node.streaming()
    calls = [await node.asked(), await node.asked(num_running=2)]
    node.origin.let(HALF_BYTES)
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    assert (await node.client.status()).replicas[0].state == "ready"
    calls[1].cancel()
    await node.empty()


async def test_load_that_nobody_asked_anything_yet_goes_on(node: Node) -> None:
    await node.streaming()
    assert (await node.client.unload(node.artifact, only_idle=True)).body == {"unloaded": False}
    node.origin.let()
    status = await node.client.until(lambda status: not status.loads)
    assert [region.is_complete for region in status.regions] == [True]


async def test_unload_ends_the_load(node: Node) -> None:
    await node.streaming()
    assert (await node.client.unload(node.artifact)).body == {"unloaded": True}
    await node.empty()


async def test_request_outlives_an_unload_as_it_does_any(node: Node) -> None:
    await node.streaming()
    call = await node.asked()
    unload = asyncio.create_task(node.client.unload(node.artifact))
    await node.client.until(lambda status: [r.state for r in status.replicas] == ["draining"])
    node.origin.let()
    assert (await call).token_ids == expected(node.artifact, 3)
    assert (await unload).body == {"unloaded": True}


async def test_shard_that_fails_sends_its_requests_elsewhere_and_then_says_why(node: Node) -> None:
    node.origin.bad_bytes = HALF_BYTES
    await node.streaming()
    call = await node.asked()
    node.origin.let()
    reply = await call
    assert (reply.status, reply.code) == (409, "replica_gone")
    assert node.origin.url.rpartition("/")[0] in reply.body["error"]["message"]
    await node.empty()
    again = await node.load(attempt=2)
    assert (again.status, again.code) == (400, "corrupt_checkpoint")
    node.origin.bad_bytes = None
    assert (await node.load(attempt=3)).status == 200
    assert (await node.client.infer(node.artifact, {"max_tokens": 3})).token_ids == expected(node.artifact, 3)


async def test_worker_killed_beside_its_load_leaves_nothing(node: Node) -> None:
    await node.streaming()
    call = await node.asked()
    pid = (await node.client.status()).replicas[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert (await call).code == "worker_lost"
    await node.empty()
    node.origin.let()
    assert (await node.load(attempt=2)).status == 200
    assert (await node.client.infer(node.artifact, {"max_tokens": 3})).token_ids == expected(node.artifact, 3)


async def test_two_models_on_one_revision_share_the_load(node: Node) -> None:
    await node.streaming("one")
    await node.streaming("two")
    calls = [await node.asked("one"), await node.asked("two")]
    calls[0].cancel()
    await node.client.until(lambda status: [r.model for r in status.replicas] == ["two"])
    node.origin.let()
    assert (await calls[1]).token_ids == expected(node.artifact, 3)
    fetched = [request.start for request in node.origin.server.served.requests if "model.bin" in request.path]
    assert len(fetched) == len(set(fetched))


async def test_late_request_waits_for_the_same_bytes(node: Node) -> None:
    await node.streaming()
    first = await node.asked()
    node.origin.let(HALF_BYTES)
    late = asyncio.create_task(node.client.infer(node.artifact, {"max_tokens": 2}))
    await node.client.until(lambda status: status.replicas[0].num_running == 2)
    node.origin.let()
    assert (await first).token_ids == expected(node.artifact, 3)
    assert (await late).token_ids == expected(node.artifact, 2)


async def test_switched_off_the_load_answers_when_all_is_there(tmp_path: Path, origin: GatedOrigin) -> None:
    sections = {"ingest": {"allow_private_urls": True}, "engine": {"layer_streaming": False}}
    async with running_agent(tmp_path / "d", **sections) as client:
        call = asyncio.create_task(Node(client, origin, tmp_path / "d").load())
        await client.until(lambda status: bool(status.loads) and bool(status.regions))
        assert [r.state for r in (await client.status()).replicas] == ["loading"]
        origin.let()
        assert (await call).body["is_streaming"] is False


async def test_stopping_agent_ends_a_load_beside_a_request(tmp_path: Path, origin: GatedOrigin) -> None:
    home = tmp_path / "d"
    async with running_agent(home, ingest={"allow_private_urls": True}) as client:
        node = Node(client, origin, home)
        await node.streaming()
        call = await node.asked()
        await client.agent.stop()
    assert (await call).status >= 400
