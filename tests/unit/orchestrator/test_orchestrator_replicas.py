# SPDX-License-Identifier: Apache-2.0
"""The table of ready replicas, between load results and the agents' events."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.replicas import DOUBT_S, Replica, ReplicaTable
from serverlessllm.wire.agent import AgentStatus, ReplicaStatus
from serverlessllm.wire.events import AgentEvent, Heartbeat, ReplicaChanged, Snapshot
from support.hand_clock import HandClock

READY = ReplicaStatus("m", "r", 5, "ready", "torch", "cpu", 7, 0, 0, 0.0)


class Deaf:
    """An observer that does not care."""

    def agent_changed(self, link: AgentLink, event: AgentEvent) -> None: ...

    def agent_lost(self, link: AgentLink) -> None: ...


class Scene:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.table = ReplicaTable(self.clock)
        self.link, self.other = (
            AgentLink(f"http://127.0.0.1:{port}", "s", self.clock, Deaf()) for port in (1, 2)
        )

    def get(self) -> Replica | None:
        return self.table.get("m", "r")

    def hear(self, **changes: object) -> None:
        self.table.apply(self.link, ReplicaChanged(msgspec.structs.replace(READY, **changes)))

    def snapshot(self, *replicas: ReplicaStatus) -> None:
        status = AgentStatus("a", "b", 1, [], 0, 0, "", list(replicas), [], [], [], {})
        self.table.apply(self.link, Snapshot(status))


@pytest.fixture
def scene() -> Iterator[Scene]:
    yield Scene()


def test_load_result_makes_the_replica_callable(scene: Scene) -> None:
    replica = scene.table.add(scene.link, "m", "r", 5)
    assert scene.get() is replica


def test_event_after_the_load_result_changes_nothing(scene: Scene) -> None:
    replica = scene.table.add(scene.link, "m", "r", 5)
    scene.hear()
    assert scene.get() is replica


def test_replica_of_another_revision_is_not_given(scene: Scene) -> None:
    scene.table.add(scene.link, "m", "older", 5)
    assert scene.get() is None


def test_gone_replica_is_not_given(scene: Scene) -> None:
    scene.table.add(scene.link, "m", "r", 5)
    scene.hear(state="gone")
    assert scene.get() is None


def test_old_news_of_an_older_attempt_does_not_remove_a_newer_replica(scene: Scene) -> None:
    replica = scene.table.add(scene.link, "m", "r", 6)
    scene.hear(state="gone", attempt=5)
    assert scene.get() is replica


def test_late_event_does_not_bring_back_what_we_dropped(scene: Scene) -> None:
    scene.table.drop(scene.table.add(scene.link, "m", "r", 5))
    scene.hear(state="ready")
    assert scene.get() is None


def test_what_the_agent_still_has_a_while_after_we_dropped_it_is_believed(scene: Scene) -> None:
    scene.table.drop(scene.table.add(scene.link, "m", "r", 5))
    scene.link.state.apply(ReplicaChanged(READY))
    scene.table.apply(scene.link, Heartbeat("b"))
    assert scene.get() is None
    scene.clock.advance(DOUBT_S)
    scene.table.apply(scene.link, Heartbeat("b"))
    assert scene.get() is not None


def test_late_drop_of_what_a_snapshot_told_anew_changes_nothing(scene: Scene) -> None:
    old = scene.table.add(scene.link, "m", "r", 5)
    scene.table.drop_agent(scene.link)
    scene.snapshot(msgspec.structs.replace(READY, num_running=2))
    scene.table.drop(old)
    scene.hear(num_running=0)
    replica = scene.get()
    assert replica is not None
    assert replica.num_remote == 0


def test_snapshot_is_believed_again(scene: Scene) -> None:
    scene.table.drop(scene.table.add(scene.link, "m", "r", 5))
    scene.snapshot(READY)
    assert scene.get() is not None


def test_snapshot_without_the_replica_removes_it(scene: Scene) -> None:
    scene.table.add(scene.link, "m", "r", 5)
    scene.snapshot()
    assert scene.get() is None


def test_draining_replica_is_passed_over(scene: Scene) -> None:
    scene.table.add(scene.link, "m", "r", 5).is_draining = True
    spare = scene.table.add(scene.other, "m", "r", 6)
    assert scene.get() is spare


def test_replica_with_fewer_requests_is_given(scene: Scene) -> None:
    scene.table.add(scene.link, "m", "r", 5).num_inflight = 3
    spare = scene.table.add(scene.other, "m", "r", 6)
    assert scene.get() is spare


def test_lost_agent_takes_its_replicas_along(scene: Scene) -> None:
    scene.table.add(scene.link, "m", "r", 5)
    spare = scene.table.add(scene.other, "m", "r", 6)
    scene.table.drop_agent(scene.link)
    assert list(scene.table.all()) == [spare]


def test_work_that_the_agent_reports_counts_as_use(scene: Scene) -> None:
    replica = scene.table.add(scene.link, "m", "r", 5)
    scene.clock.advance(9)
    scene.hear(num_running=1)
    scene.clock.advance(1)
    scene.hear(num_running=0)
    assert replica.used_s == 10.0
