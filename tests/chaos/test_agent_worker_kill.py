# SPDX-License-Identifier: Apache-2.0
"""kill -9 of a worker under a real agent: its requests end with a clear error, the next ones succeed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serverlessllm.agent.replica import Replica, ReplicaKey
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.clock import SystemClock
from serverlessllm.config import EngineConfig
from serverlessllm.engine.slots import SlotPool
from serverlessllm.text.tokenizer import TextModel
from serverlessllm.wire.agent import AgentStatus
from serverlessllm.wire.worker import Attach, ModelLayout
from support.running_agent import PATIENCE_S, POLL_S, AgentClient, Reply, expected, running_agent
from support.simulated_artifact import write_simulated_artifact

TOKEN_S = 0.01
STUCK_S = 600.0


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[AgentClient]:
    async with running_agent(tmp_path) as client:
        yield client


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_simulated_artifact(tmp_path / "artifacts")


def kill_worker(status: AgentStatus) -> int:
    """kill -9 of the one replica's worker."""
    pid = status.replicas[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


async def test_kill_in_decode_ends_streams_with_an_error_and_no_id_lost(
    node: AgentClient, artifact: Artifact
) -> None:
    await node.loaded(artifact, options={"token_s": TOKEN_S})
    begun = [asyncio.Event() for _ in range(3)]

    def start(seed: int) -> asyncio.Task[Reply]:
        def note(reply: Reply) -> None:
            if len(reply.events) > 3:
                begun[seed].set()

        body = {"stream": True, "max_tokens": 3000, "seed": seed}
        return asyncio.create_task(node.infer(artifact, body, on_line=note))

    calls = [start(seed) for seed in range(3)]
    await asyncio.gather(*(event.wait() for event in begun))
    kill_worker(await node.status())
    for index, reply in enumerate(await asyncio.gather(*calls)):
        assert reply.events[-1]["error"]["code"] == "worker_lost"
        assert reply.is_done
        num_ids = len(reply.token_ids)
        assert num_ids > 3
        assert reply.token_ids == expected(artifact, num_ids, seed=index)


async def test_kill_before_the_first_token_is_502(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, options={"prefill_s": STUCK_S})
    call = asyncio.create_task(node.infer(artifact, {"stream": True}))
    kill_worker(await node.until(lambda status: status.replicas[0].num_running == 1))
    reply = await call
    assert (reply.status, reply.code) == (502, "worker_lost")


async def test_kill_sends_queued_requests_to_be_placed_again(tmp_path: Path, artifact: Artifact) -> None:
    async with running_agent(tmp_path, engine={"max_num_seqs": 1}) as node:
        await node.loaded(artifact, options={"prefill_s": STUCK_S})
        calls = [asyncio.create_task(node.infer(artifact)) for _ in range(4)]
        kill_worker(await node.until(lambda status: status.replicas[0].num_queued == 2))
        codes = sorted(reply.code for reply in await asyncio.gather(*calls))
        assert codes == ["replica_gone", "replica_gone", "worker_lost", "worker_lost"]


async def test_next_load_after_a_kill_makes_a_new_replica(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    dead = kill_worker(await node.status())
    status = await node.until(lambda status: not status.replicas)
    assert [region.is_pinned for region in status.regions] == [False]
    assert (await node.loaded(artifact, attempt=2)).tier == "dram"
    assert (await node.status()).replicas[0].pid != dead
    assert (await node.infer(artifact)).token_ids == expected(artifact, 8)
    async with node.session.get(f"{node.url}/metrics") as response:
        assert 'sllm_worker_deaths_total{engine="simulated"} 1.0' in await response.text()


async def test_kill_while_binding_fails_the_load_and_leaks_nothing(
    node: AgentClient, artifact: Artifact
) -> None:
    call = asyncio.create_task(node.load(artifact, options={"load_s": STUCK_S}))
    kill_worker(await node.until(lambda status: [r.state for r in status.replicas] == ["binding"]))
    reply = await call
    assert (reply.status, reply.code) == (502, "model_load_failed")
    status = await node.until(lambda status: not status.replicas and status.slots["simulated.bound"] == 0)
    assert [region.is_pinned for region in status.regions] == [False]
    assert (await node.loaded(artifact, attempt=2)).start == "warm"


async def test_many_kills_leak_no_descriptor(node: AgentClient, artifact: Artifact) -> None:
    async def round_trip(attempt: int) -> int:
        await node.loaded(artifact, attempt=attempt)
        kill_worker(await node.status())
        await node.until(lambda status: not status.replicas)
        await node.until(lambda status: status.slots["simulated.primed"] == 1)
        return len(list(Path("/proc/self/fd").iterdir()))

    first = await round_trip(1)
    assert [await round_trip(attempt) for attempt in range(2, 6)] == [first] * 4


async def test_slot_killed_while_bytes_are_read_is_replaced_at_bind(
    tmp_path: Path, artifact: Artifact
) -> None:
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=1), ["simulated"])
    await pool.start()
    replica = Replica(
        ReplicaKey("m", artifact.revision),
        "simulated",
        1,
        slots=pool,
        clock=SystemClock(),
        max_queue_length=1,
        on_kv_change=lambda _: None,
        on_change=lambda replica: None,
    )
    await replica.take_slot()
    dead = replica.status().pid
    assert dead is not None
    os.kill(dead, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_S):
        while pool.states()["simulated"].num_bound:  # noqa: ASYNC110  # the pool has no event for it
            await asyncio.sleep(POLL_S)
    layout = ModelLayout(architecture={}, tensors=[], groups=[], aliases={})
    await replica.bind(Attach(artifact.revision, layout, [], 1, 0), TextModel.load(artifact))
    assert (replica.state, replica.status().pid == dead) == ("ready", False)
    await replica.unbind()
    await pool.stop()
