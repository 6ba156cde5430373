# SPDX-License-Identifier: Apache-2.0
"""Which of several ready replicas a request goes to."""

from __future__ import annotations

import msgspec
import pytest

from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.breakers import Breakers
from serverlessllm.orchestrator.decisions import DecisionRing
from serverlessllm.orchestrator.node_feed import NodeFeed
from serverlessllm.orchestrator.placement.score import DEFAULT_WEIGHTS
from serverlessllm.orchestrator.prefill_costs import PrefillCosts
from serverlessllm.orchestrator.prompt import Prompt
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.orchestrator.routing import MAX_LOOKED_AT, Routing
from serverlessllm.telemetry.metrics import OrchestratorMetrics
from serverlessllm.telemetry.timeline import Timeline
from serverlessllm.wire import openai
from serverlessllm.wire.agent import AgentStatus, ReplicaStatus
from serverlessllm.wire.events import AgentEvent, KvChanged, Snapshot
from serverlessllm.wire.prompt_chunks import canonical_text, chunk_names
from support.hand_clock import HandClock

RECORD = ModelRecord(name="m", state="ready", engine="torch", source="/m", created_at_s=0.0, revision="r")
REQUEST = openai.parse_chat(
    msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "word " * 1000}]})
)
NAMES = chunk_names(canonical_text(REQUEST), "salt")


class Deaf:
    """An observer that does not care."""

    def agent_changed(self, link: AgentLink, event: AgentEvent) -> None: ...

    def agent_lost(self, link: AgentLink) -> None: ...


class Scene:
    """Agents, each with a ready replica of one model."""

    def __init__(self, num_replicas: int = 2) -> None:
        clock = HandClock()
        self.table = ReplicaTable(clock)
        self.costs = PrefillCosts()
        self.decisions = DecisionRing()
        breakers = Breakers(Agents([], "s", clock, Deaf()), OrchestratorMetrics())
        self.routing = Routing(
            self.table, self.costs, self.decisions, NodeFeed(), lambda: DEFAULT_WEIGHTS, clock, breakers
        )
        self.replicas = [self._replica(number, clock) for number in range(1, 1 + num_replicas)]
        self.one, self.two = self.replicas[:2]

    def _replica(self, number: int, clock: HandClock) -> Replica:
        link = AgentLink(f"http://127.0.0.1:{number}", "s", clock, Deaf())
        status = ReplicaStatus("m", "r", 5, "ready", "torch", "cpu", 7, 0, 0, 0.0)
        link.state.apply(
            Snapshot(AgentStatus(f"a{number}", "b", 1, ["torch"], 0, 0, "", [status], [], [], [], {}))
        )
        link.is_alive = True
        return self.table.add(link, "m", "r", 5)

    def has(self, replica: Replica, names: list[int]) -> None:
        replica.link.state.apply(KvChanged("m", "r", names, []))

    def pick(self, salt: str = "salt", *, failed: tuple[str, ...] = ()) -> Replica | None:
        return self.routing.pick(RECORD, Prompt(REQUEST, salt), "q", failed)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_replica_that_has_more_of_the_prompt_is_picked_and_the_record_says_why(scene: Scene) -> None:
    scene.has(scene.one, NAMES[:2])
    scene.has(scene.two, NAMES[:8])
    assert scene.pick() is scene.two
    route = scene.decisions.route("q")
    assert route is not None and route.picked == "a2"
    kv_s = [candidate.terms_s["kv"] for candidate in route.candidates]
    assert kv_s == pytest.approx([0.996, 0.228])


def test_chunk_after_a_gap_counts_for_nothing(scene: Scene) -> None:
    scene.has(scene.one, NAMES[1:])
    scene.has(scene.two, NAMES[:1])
    assert scene.pick() is scene.two


def test_another_tenants_chunks_count_for_nothing(scene: Scene) -> None:
    scene.has(scene.one, NAMES)
    scene.two.num_inflight, scene.one.num_inflight = 0, 2
    assert scene.pick() is scene.one
    assert scene.pick("other") is scene.two


def test_long_queue_outweighs_a_cached_prompt(scene: Scene) -> None:
    scene.has(scene.one, NAMES)
    scene.one.num_inflight = 40
    assert scene.pick() is scene.two


def test_agent_whose_prompts_take_longer_loses_the_tie(scene: Scene) -> None:
    slow = Timeline(request_id="q", model="m", endpoint="chat", arrived_s=0.0)
    slow.prompt_tokens, slow.cached_tokens, slow.prefill_ms = 110, 10, 400.0
    scene.routing.learn(scene.one, slow)
    assert scene.costs.of("a1", "r").token_s == pytest.approx(0.004)
    assert scene.pick() is scene.two


def test_agent_that_failed_this_request_is_asked_again_only_if_it_is_the_last(scene: Scene) -> None:
    scene.has(scene.one, NAMES)
    assert scene.pick(failed=("a1",)) is scene.two
    assert scene.pick(failed=("a1", "a2")) is scene.one
    scene.table.drop(scene.two)
    assert scene.pick(failed=("a1",)) is scene.one


def test_replica_that_keeps_failing_is_avoided(scene: Scene) -> None:
    scene.has(scene.one, NAMES)
    scene.one.num_failures = 3
    assert scene.pick() is scene.two


def test_lone_replica_needs_no_decision(scene: Scene) -> None:
    scene.table.drop(scene.one)
    assert scene.pick() is scene.two
    scene.table.drop(scene.two)
    assert scene.pick() is None
    assert scene.decisions.route("q") is None


def test_of_very_many_replicas_the_one_that_has_the_prompt_is_found() -> None:
    scene = Scene(num_replicas=4 * MAX_LOOKED_AT)
    for number in (0, 77, 191):
        replica = scene.replicas[number]
        scene.has(replica, NAMES)
        assert scene.pick() is replica
        scene.table.drop(replica)
    assert scene.pick() is not None
    route = scene.decisions.route("q")
    assert route is not None and len(route.candidates) == MAX_LOOKED_AT
