# SPDX-License-Identifier: Apache-2.0
"""What agents say, and what was ordered from them, as placement's arrays have it."""

from __future__ import annotations

from typing import Any

import pytest

from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.node_feed import NodeFeed
from serverlessllm.orchestrator.placement.terms.load import DRAM, NVME, REMOTE
from serverlessllm.types import ReplicaState
from serverlessllm.wire.agent import (
    AgentStatus,
    BandwidthStatus,
    LoadProgressStatus,
    LoadResult,
    RegionStatus,
    ReplicaStatus,
)
from serverlessllm.wire.events import (
    AgentEvent,
    BandwidthChanged,
    LoadEnded,
    LoadProgressed,
    RegionChanged,
    ReplicaChanged,
    Snapshot,
)
from support.hand_clock import HandClock


class Scene:
    """One agent, `a`, whose events are fed."""

    def __init__(self) -> None:
        self.feed = NodeFeed()
        self.link = AgentLink("http://127.0.0.1:1", "s", HandClock(), self)
        self.link.is_alive = True
        self.say(snapshot())
        self.row = self.feed.row(self.link)

    def agent_changed(self, link: AgentLink, event: AgentEvent) -> None: ...

    def agent_lost(self, link: AgentLink) -> None: ...

    def say(self, event: AgentEvent) -> None:
        self.link.state.apply(event)
        self.feed.follow(self.link, event)

    def tier(self, revision: str) -> int:
        return int(self.feed.table.tiers[self.feed.table.model(revision), self.row])

    def bound(self) -> dict[str, bool]:
        table = self.feed.table
        pairs = zip(table.bound.models[self.row].tolist(), table.bound.marks[self.row].tolist(), strict=True)
        return {table.revision(model): is_busy for model, is_busy in pairs if model >= 0}

    def number(self, name: str) -> float:
        return float(self.feed.table.floats[name][self.row])


def snapshot(**fields: Any) -> Snapshot:
    known: dict[str, Any] = {
        "agent_id": "a",
        "boot_id": "b",
        "wire_version": 1,
        "engines": ["torch"],
        "arena_budget_bytes": 100,
        "arena_used_bytes": 0,
        "arena_location": "",
        "replicas": [],
        "regions": [],
        "loads": [],
        "bandwidths": [],
        "slots": {},
        "max_replicas": 2,
    }
    return Snapshot(AgentStatus(**{**known, **fields}))


def replica(revision: str, state: ReplicaState = "ready", *, num_running: int = 0) -> ReplicaStatus:
    return ReplicaStatus(f"m-{revision}", revision, 1, state, "torch", "cpu", 7, num_running, 0, 0.0)


def ended(revision: str, *, nbytes: int, bind_ms: float) -> LoadEnded:
    result = LoadResult("m", revision, 1, "warm", "nvme", nbytes, 0.0, 5.0, bind_ms, 1.0, 1.0, "disk")
    return LoadEnded("m", revision, None, result)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_snapshot_tells_tiers_replicas_and_limits(scene: Scene) -> None:
    region = RegionStatus("here", 10, True, False)
    scene.say(snapshot(regions=[region], replicas=[replica("here", num_running=2)], on_disk=["here", "disk"]))
    assert [scene.tier(revision) for revision in ("here", "disk", "nowhere")] == [DRAM, NVME, REMOTE]
    assert scene.bound() == {"here": True}
    assert int(scene.feed.table.ints["num_seats"][scene.row]) == 2


def test_next_snapshot_is_the_truth_about_memory(scene: Scene) -> None:
    scene.say(snapshot(regions=[RegionStatus("old", 10, True, False)], replicas=[replica("old")]))
    scene.say(snapshot())
    assert (scene.tier("old"), scene.bound()) == (NVME, {})


def test_region_comes_and_goes_down_a_tier(scene: Scene) -> None:
    scene.say(RegionChanged(RegionStatus("r", 10, True, False), 10))
    assert (scene.tier("r"), scene.number("used_bytes")) == (DRAM, 10.0)
    scene.say(RegionChanged(RegionStatus("r", 0, False, False), 0))
    assert (scene.tier("r"), scene.number("used_bytes")) == (NVME, 0.0)


def test_replica_is_busy_until_its_last_request_ends(scene: Scene) -> None:
    for state, num_running, expected in (("loading", 0, True), ("ready", 1, True), ("ready", 0, False)):
        scene.say(ReplicaChanged(replica("r", state, num_running=num_running)))  # type: ignore[arg-type]
        assert scene.bound() == {"r": expected}
    scene.say(ReplicaChanged(replica("r", "gone")))
    assert scene.bound() == {}


def test_load_under_way_is_waited_for_and_bandwidths_are_the_nodes_own(scene: Scene) -> None:
    scene.say(LoadProgressed(LoadProgressStatus("m", "r", "read", 1, 10, eta_s=1.5)))
    scene.say(BandwidthChanged(BandwidthStatus("nvme", 7e9, 0.0, 3)))
    assert (scene.number("loads_s"), scene.number("nvme_bytes_per_s")) == (1.5, 7e9)
    scene.say(ended("r", nbytes=1000, bind_ms=100.0))
    scene.say(ended("s", nbytes=10, bind_ms=100.0))
    assert scene.number("loads_s") == 0.0
    assert scene.number("device_bytes_per_s") == pytest.approx(810 / 0.18)


def test_order_counts_before_the_agent_tells_and_is_taken_back_when_it_fails(scene: Scene) -> None:
    model = scene.feed.table.model("r")
    scene.feed.order(scene.row, model, 2.0)
    assert (scene.bound(), scene.number("loads_s")) == ({"r": True}, 2.0)
    scene.feed.settled(scene.row, model, is_ready=False)
    assert (scene.bound(), scene.number("loads_s")) == ({}, 0.0)


def test_losses_of_a_called_model_are_told_and_others_cost_nothing(scene: Scene) -> None:
    table, demand = scene.feed.table, scene.feed.demand
    scene.say(BandwidthChanged(BandwidthStatus("nvme", 100.0, 0.0, 3)))
    for revision in ("called", "forgotten"):
        table.nbytes[table.model(revision)] = 200
        scene.say(RegionChanged(RegionStatus(revision, 200, True, False), 200))
    for _ in range(100):
        demand.note(table.model("called"), 0.0)
    losses = scene.feed.losses(scene.row, 0.0)
    assert losses["called"].evict_s == pytest.approx(2.0)
    assert (losses["forgotten"].unbind_s, losses["forgotten"].evict_s) == (0.0, 0.0)


def test_lost_agent_has_nothing_and_is_not_alive(scene: Scene) -> None:
    scene.say(snapshot(regions=[RegionStatus("r", 10, True, False)], replicas=[replica("r")]))
    scene.feed.lost(scene.link)
    assert (scene.tier("r"), scene.bound(), scene.feed.link(scene.row)) == (REMOTE, {}, None)
    assert not scene.feed.table.bools["is_alive"][scene.row]
