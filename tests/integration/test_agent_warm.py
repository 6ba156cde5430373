# SPDX-License-Identifier: Apache-2.0
"""What placement asks of an agent beyond a load: bytes ahead of need, and victims by what their going costs."""

from __future__ import annotations

from pathlib import Path

from serverlessllm.config import MIB
from support.running_agent import AgentClient, running_agent
from support.simulated_artifact import write_simulated_artifact

FORGOTTEN, CALLED = [0.0, 0.0], [2.0, 2.0]
"""Seconds that callers would lose: of nobody, and of many."""


async def bound(node: AgentClient) -> set[str]:
    return {replica.model for replica in (await node.status()).replicas}


async def test_warm_load_brings_bytes_and_nothing_else_and_the_next_load_finds_them(tmp_path: Path) -> None:
    artifact = write_simulated_artifact(tmp_path / "artifacts")
    async with running_agent(tmp_path) as node:
        warmed = await node.loaded(artifact, warm_only=True)
        assert (warmed.tier, warmed.bind_ms) == ("nvme", 0.0)
        status = await node.status()
        assert not status.replicas and not status.loads
        assert [(region.is_complete, region.is_pinned) for region in status.regions] == [(True, False)]
        assert (await node.loaded(artifact)).tier == "dram"


async def test_least_missed_replica_is_unbound_although_it_was_used_last(tmp_path: Path) -> None:
    first, second, third = (write_simulated_artifact(tmp_path / "artifacts", name) for name in "abc")
    async with running_agent(tmp_path, engine={"max_replicas": 2}) as node:
        for name, artifact in (("first", first), ("second", second)):
            await node.loaded(artifact, name)
            assert (await node.infer(artifact, model=name)).status == 200
        losses = {first.revision: CALLED, second.revision: FORGOTTEN}
        await node.loaded(third, "third", losses=losses)
        assert await bound(node) == {"first", "third"}


async def test_least_missed_bytes_leave_memory_although_they_were_used_last(tmp_path: Path) -> None:
    artifacts = [write_simulated_artifact(tmp_path / "artifacts", name, nbytes=2 * MIB) for name in "abc"]
    first, second, third = artifacts
    async with running_agent(tmp_path, arena={"budget_bytes": 4 * MIB, "extent_bytes": 2 * MIB}) as node:
        for artifact in (first, second):
            await node.loaded(artifact, warm_only=True)
        losses = {first.revision: CALLED, second.revision: FORGOTTEN}
        await node.loaded(third, warm_only=True, losses=losses)
        held = {region.revision for region in (await node.status()).regions}
    assert held == {first.revision, third.revision}
