# SPDX-License-Identifier: Apache-2.0
"""When a replica's keep-alive is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.models import Models
from serverlessllm.orchestrator.placements import Placements
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.orchestrator.scaling.idle import IdleScaler
from serverlessllm.orchestrator.unbind import Unbinder
from serverlessllm.wire.agent import AgentStatus
from serverlessllm.wire.events import AgentEvent, Snapshot
from support.front import put_model
from support.hand_clock import HandClock


class Deaf:
    """An observer that does not care."""

    def agent_changed(self, link: object, event: AgentEvent) -> None: ...

    def agent_lost(self, link: object) -> None: ...


class Scene:
    def __init__(self, store: SqliteStore) -> None:
        self.clock = HandClock()
        self.agents = Agents(["http://127.0.0.1:1"], "s", self.clock, Deaf())
        self.table = ReplicaTable(self.clock)
        self.models = Models(store, Changes(), self.clock)
        unbinder = Unbinder(self.agents, self.table, Placements(store))
        self.idle = IdleScaler(self.models, self.table, unbinder, self.clock, default_keep_alive_s=300.0)

    def replica(self, model: str) -> Replica:
        link = self.agents.links[0]
        link.state.apply(Snapshot(AgentStatus("a", "b", 1, [], 0, 0, "", [], [], [], [], {})))
        return self.table.add(link, model, "r", 1)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    store = await SqliteStore.open(tmp_path / "metadata.sqlite")
    await put_model(store, "own", keep_alive_s=10.0)
    await put_model(store, "default")
    scene = Scene(store)
    await scene.models.start()
    yield scene
    await scene.models.stop()
    await scene.agents.stop()
    await store.close()


async def test_models_own_keep_alive_comes_before_the_servers(scene: Scene) -> None:
    own, default = scene.replica("own"), scene.replica("default")
    scene.clock.advance(4)
    assert (scene.idle.left_s(own), scene.idle.left_s(default)) == (6.0, 296.0)


async def test_keep_alive_counts_from_the_last_request(scene: Scene) -> None:
    replica = scene.replica("own")
    scene.clock.advance(8)
    replica.used_s = scene.clock.monotonic_s()
    scene.clock.advance(8)
    assert scene.idle.left_s(replica) == 2.0


@pytest.mark.parametrize("work", ["num_inflight", "num_remote"])
async def test_busy_replica_has_all_its_time_left(scene: Scene, work: str) -> None:
    replica = scene.replica("own")
    setattr(replica, work, 1)
    scene.clock.advance(1000)
    assert scene.idle.left_s(replica) == 10.0


async def test_unknown_models_replica_expires_by_the_servers_keep_alive(scene: Scene) -> None:
    replica = scene.replica("nobody")
    scene.clock.advance(301)
    assert scene.idle.left_s(replica) < 0
