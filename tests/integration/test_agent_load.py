# SPDX-License-Identifier: Apache-2.0
"""`/load` and `/unload` of a real agent with simulated workers: starts, fencing, single flight, room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.config import MIB
from support.running_agent import AgentClient, running_agent
from support.simulated_artifact import write_simulated_artifact


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[AgentClient]:
    async with running_agent(tmp_path) as client:
        yield client


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_simulated_artifact(tmp_path / "artifacts")


async def test_first_load_reads_nvme_second_is_hot(node: AgentClient, artifact: Artifact) -> None:
    first = await node.loaded(artifact)
    assert (first.start, first.tier, first.nbytes) == ("warm", "nvme", artifact.index.weights_nbytes)
    assert first.read_ms > 0
    assert first.bind_ms > 0
    assert (await node.loaded(artifact)).start == "hot"


async def test_load_after_unload_finds_bytes_in_dram(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    assert (await node.unload(artifact)).body == {"unloaded": True}
    status = await node.status()
    assert not status.replicas
    assert [(r.is_complete, r.is_pinned) for r in status.regions] == [(True, False)]
    again = await node.loaded(artifact, attempt=2)
    assert (again.start, again.tier) == ("warm", "dram")


async def test_unload_with_drop_bytes_frees_region(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    await node.unload(artifact, drop_bytes=True)
    status = await node.status()
    assert not status.regions
    assert status.arena_used_bytes == 0
    assert (await node.unload(artifact, drop_bytes=True)).body == {"unloaded": False}


async def test_unload_keeps_bytes_that_another_model_uses(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, "one")
    await node.loaded(artifact, "two")
    assert (await node.unload(artifact, "one", drop_bytes=True)).body == {"unloaded": True}
    assert (await node.infer(artifact, model="two")).status == 200
    assert (await node.status()).regions[0].is_pinned


async def test_concurrent_loads_of_one_model_are_one(node: AgentClient, artifact: Artifact) -> None:
    results = await asyncio.gather(*(node.loaded(artifact, options={"load_s": 0.2}) for _ in range(16)))
    assert {result.start for result in results} == {"warm"}
    assert len({(result.read_ms, result.bind_ms) for result in results}) == 1
    assert (await node.status()).slots["simulated.bound"] == 1


async def test_stale_attempt_is_refused_newer_one_owns(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, attempt=5)
    stale = await node.load(artifact, attempt=4)
    assert (stale.status, stale.code) == (409, "stale_attempt")
    assert (await node.unload(artifact, attempt=4)).code == "stale_attempt"
    assert (await node.loaded(artifact, attempt=6)).attempt == 6
    assert [replica.attempt for replica in (await node.status()).replicas] == [6]


async def test_load_cancelled_by_last_caller_leaves_nothing(node: AgentClient, artifact: Artifact) -> None:
    calls = [asyncio.create_task(node.load(artifact, options={"load_s": 60.0})) for _ in range(2)]
    await node.until(lambda status: [r.state for r in status.replicas] == ["binding"])
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    assert [r.state for r in (await node.status()).replicas] == ["binding"]
    calls[1].cancel()
    status = await node.until(lambda status: not status.replicas and status.slots["simulated.bound"] == 0)
    assert [region.is_pinned for region in status.regions] == [False]
    assert (await node.loaded(artifact, attempt=2, options={"load_s": 0.0})).tier == "dram"


async def test_unload_stops_load_under_way(node: AgentClient, artifact: Artifact) -> None:
    call = asyncio.create_task(node.load(artifact, options={"load_s": 60.0}))
    await node.until(lambda status: [r.state for r in status.replicas] == ["binding"])
    assert (await node.unload(artifact, only_idle=True)).body == {"unloaded": False}
    assert (await node.unload(artifact)).body == {"unloaded": True}
    assert (await call).code == "replica_gone"


async def test_failed_attach_is_an_error_and_leaks_nothing(node: AgentClient, artifact: Artifact) -> None:
    reply = await node.load(artifact, options={"nonsense": 1.0})
    assert (reply.status, reply.code) == (502, "model_load_failed")
    assert "nonsense" in reply.body["error"]["message"]
    status = await node.until(lambda status: not status.replicas)
    assert (status.slots["simulated.bound"], status.loads) == (0, [])
    assert (await node.loaded(artifact)).start == "warm"


async def test_damaged_artifact_is_named(node: AgentClient, artifact: Artifact) -> None:
    (artifact.directory / "model.bin").write_bytes(b"short")
    reply = await node.load(artifact)
    assert (reply.status, reply.code) == (400, "corrupt_checkpoint")
    assert (await node.status()).replicas == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"engine": "vllm"}, "engine"),
        ({"revision": "x"}, "revision"),
        ({"model": "/"}, "model"),
    ],
)
async def test_bad_load_field_is_400_naming_it(
    node: AgentClient, artifact: Artifact, fields: dict[str, Any], param: str
) -> None:
    reply = await node.load(artifact, **fields)
    assert (reply.status, reply.body["error"]["param"]) == (400, param)


async def test_model_larger_than_budget_is_400(node: AgentClient, tmp_path: Path) -> None:
    artifact = write_simulated_artifact(tmp_path / "artifacts", nbytes=40 * MIB)
    reply = await node.load(artifact)
    assert (reply.status, reply.code) == (400, "insufficient_memory")
    assert not (await node.status()).replicas


async def test_six_models_share_budget_of_three(tmp_path: Path) -> None:
    artifacts = [write_simulated_artifact(tmp_path / "artifacts", f"v{i}", nbytes=3 * MIB) for i in range(6)]

    async def ask(node: AgentClient, number: int) -> None:
        """As an orchestrator does: wake, ask, wake again if the replica went meanwhile."""
        artifact, model = artifacts[number], f"model-{number}"
        for attempt in range(1, 100):
            await node.loaded(artifact, model, attempt=attempt, options={"token_s": 0.002})
            reply = await node.infer(artifact, model=model)
            if reply.status == 200:
                return
            assert reply.code == "replica_gone", reply.body

    # Three models of two extents each fit into the budget of six extents.
    async with running_agent(tmp_path, arena={"budget_bytes": 12 * MIB}, engine={"max_replicas": 6}) as node:
        await asyncio.gather(*(ask(node, number % 6) for number in range(24)))
        status = await node.status()
        assert status.arena_used_bytes <= 12 * MIB
        assert sum(region.is_pinned for region in status.regions) == len(status.replicas) <= 3


async def test_load_waits_while_others_are_busy(tmp_path: Path) -> None:
    first, second = (write_simulated_artifact(tmp_path / "artifacts", name) for name in "ab")
    async with running_agent(tmp_path, engine={"max_replicas": 1}) as node:
        await node.loaded(first, "first", options={"token_s": 0.005})
        running = asyncio.create_task(node.infer(first, {"max_tokens": 100}, model="first"))
        await node.until(lambda status: status.replicas[0].num_running == 1)
        waiting = asyncio.create_task(node.loaded(second, "second"))
        status = await node.until(lambda status: bool(status.loads))
        assert [(load.model, load.phase) for load in status.loads] == [("second", "queue")]
        assert (await running).status == 200
        await waiting
        assert [replica.model for replica in (await node.status()).replicas] == ["second"]


async def test_load_that_finds_no_room_in_time_is_503(tmp_path: Path) -> None:
    first, second = (write_simulated_artifact(tmp_path / "artifacts", name) for name in "ab")
    settings: dict[str, Any] = {"engine": {"max_replicas": 1}, "agent": {"load_timeout_s": 1.0}}
    async with running_agent(tmp_path, **settings) as node:
        await node.loaded(first, "first", options={"prefill_s": 60.0})
        running = asyncio.create_task(node.infer(first, model="first"))
        await node.until(lambda status: status.replicas[0].num_running == 1)
        reply = await node.load(second, "second")
        assert (reply.status, reply.code) == (503, "no_capacity")
        running.cancel()
        assert (await node.loaded(second, "second")).start == "warm"


async def test_tokenizer_is_not_parsed_on_a_dram_wake(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    await node.unload(artifact)
    for name in ("tokenizer.json", "config.json", "model.idx", "model.bin"):
        (artifact.directory / name).unlink()
    assert (await node.loaded(artifact, attempt=2)).tier == "dram"
    assert (await node.infer(artifact)).status == 200


async def test_restarted_agent_adopts_weights_and_has_another_boot_id(
    tmp_path: Path, artifact: Artifact
) -> None:
    async with running_agent(tmp_path, arena={"keep_on_stop": True}) as node:
        await node.loaded(artifact)
        before = await node.status()
    async with running_agent(tmp_path) as node:
        after = await node.status()
        assert after.agent_id == before.agent_id
        assert after.boot_id != before.boot_id
        assert (await node.loaded(artifact)).tier == "dram"


async def test_stopped_agent_leaves_no_process(tmp_path: Path, artifact: Artifact) -> None:
    async with running_agent(tmp_path) as node:
        await node.loaded(artifact)
        pid = (await node.status()).replicas[0].pid
    deadline_s = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)
