# SPDX-License-Identifier: Apache-2.0
"""A node's state, from its snapshot and deltas."""

from __future__ import annotations

import msgspec

from serverlessllm.orchestrator.agent_state import AgentState
from serverlessllm.wire.agent import (
    AgentStatus,
    BandwidthStatus,
    LoadProgressStatus,
    RegionStatus,
    ReplicaStatus,
)
from serverlessllm.wire.events import (
    BandwidthChanged,
    Heartbeat,
    KvChanged,
    KvChunks,
    LoadEnded,
    LoadProgressed,
    RegionChanged,
    ReplicaChanged,
    Snapshot,
)

REPLICA = ReplicaStatus("m", "r", 1, "ready", "torch", "cpu", 7, 0, 0, 0.0)
REGION = RegionStatus("r", 100, is_complete=True, is_pinned=False)
STATUS = AgentStatus("a", "boot", 1, ["torch"], 1000, 100, "/dev/shm", [REPLICA], [REGION], [], [], {})


def after(*events: object) -> AgentStatus:
    state = AgentState()
    state.apply(Snapshot(STATUS))
    for event in events:
        state.apply(event)  # type: ignore[arg-type]  # each is one of the union
    status = state.status()
    assert status is not None
    return status


def test_nothing_is_known_before_the_first_snapshot() -> None:
    state = AgentState()
    state.apply(Heartbeat("boot"))
    assert state.status() is None


def test_snapshot_comes_back_as_it_was() -> None:
    assert after() == STATUS


def test_snapshot_replaces_what_was_known() -> None:
    assert after(Snapshot(msgspec.structs.replace(STATUS, replicas=[]))).replicas == []


def test_gone_replica_is_removed() -> None:
    assert after(ReplicaChanged(msgspec.structs.replace(REPLICA, state="gone"))).replicas == []


def test_region_without_bytes_is_removed_and_use_follows() -> None:
    status = after(RegionChanged(msgspec.structs.replace(REGION, nbytes=0), arena_used_bytes=0))
    assert (status.regions, status.arena_used_bytes) == ([], 0)


def test_load_is_there_until_it_ends() -> None:
    load = LoadProgressStatus("m", "r", "read", 1, 2, 0.5)
    assert after(LoadProgressed(load)).loads == [load]
    assert after(LoadProgressed(load), LoadEnded("m", "r", None)).loads == []


def test_bandwidth_of_a_tier_is_replaced() -> None:
    slow, fast = BandwidthStatus("nvme", 1.0, 0.0, 1), BandwidthStatus("nvme", 9.0, 0.0, 2)
    assert after(BandwidthChanged(slow), BandwidthChanged(fast)).bandwidths == [fast]


def test_prompt_chunks_follow_the_replica_and_leave_with_it() -> None:
    state = AgentState()
    state.apply(Snapshot(STATUS, [KvChunks("m", "r", [1, 2])]))
    state.apply(KvChanged("m", "r", stored=[3], removed=[1]))
    assert state.kv == {("m", "r"): {2, 3}}
    state.apply(ReplicaChanged(msgspec.structs.replace(REPLICA, state="gone")))
    state.apply(KvChanged("m", "r", stored=[4], removed=[]))
    assert state.kv == {}
