# SPDX-License-Identifier: Apache-2.0
"""Where a model is loaded, by what placement knows of four nodes."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from serverlessllm.orchestrator.placement.cold import Need, place
from serverlessllm.orchestrator.placement.decide import Decision
from serverlessllm.orchestrator.placement.demand import Demand
from serverlessllm.orchestrator.placement.nodes import NodeFacts, NodeTable
from serverlessllm.orchestrator.placement.score import DEFAULT_WEIGHTS
from serverlessllm.orchestrator.placement.terms.load import DRAM, NVME, REMOTE

SIZE = 14_000
FACTS: dict[str, Any] = {
    "engines": frozenset({"simulated"}),
    "budget_bytes": 2 * SIZE,
    "num_seats": 1,
    "remote_bytes_per_s": 700.0,
    "nvme_bytes_per_s": 7_000.0,
    "device_bytes_per_s": 25_000.0,
}


class Scene:
    """Two equal nodes `a` and `b` with one seat and room for two models in DRAM each."""

    def __init__(self) -> None:
        self.table = NodeTable(num_rows=1, num_models=1)
        self.demand = Demand()
        self.rows = {name: self.table.row(name, "cpu") for name in "ab"}
        for name in "ab":
            self.put(name)

    def put(self, name: str, **fields: Any) -> None:
        self.table.put(self.rows[name], NodeFacts(**{**FACTS, **fields}))

    def model(self, revision: str, *, calls: int = 0) -> int:
        index = self.table.model(revision)
        self.table.nbytes[index] = SIZE
        for _ in range(calls):
            self.demand.note(index, 0.0)
        return index

    def bind(self, name: str, revision: str, *, calls: int = 0, is_busy: bool = False) -> None:
        model = self.model(revision, calls=calls)
        self.table.set_tier(self.rows[name], model, DRAM)
        self.table.set_bound(self.rows[name], model, is_busy=is_busy)

    def decide(self, *, num_ranks: int = 1, **fields: Any) -> Decision:
        need = Need("wanted", "simulated", SIZE, service_s=0.8, num_ranks=num_ranks)
        given: dict[str, Any] = {"excluded": (), "weights": DEFAULT_WEIGHTS, **fields}
        return place(
            self.table,
            self.demand,
            need,
            token_s=np.zeros(self.table.num_rows),
            now_s=0.0,
            rng=Random(0),
            **given,
        )

    def picked(self, **fields: Any) -> str | None:
        decision = self.decide(**fields)
        return None if decision.picked is None else self.table.agent_ids[decision.picked]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_node_with_the_bytes_in_dram_wins_by_the_seconds_that_it_saves(scene: Scene) -> None:
    scene.table.set_tier(scene.rows["b"], scene.model("wanted"), DRAM)
    assert scene.picked() == "b"
    assert scene.decide().terms_s["load"].tolist() == [2.0, 0.56]


def test_model_of_several_ranks_goes_only_where_one_node_has_the_devices(scene: Scene) -> None:
    assert scene.picked(num_ranks=2) is None
    assert scene.decide(num_ranks=2).is_rejected_only_for("ranks")
    scene.put("b", max_num_ranks=2)
    assert scene.picked(num_ranks=2) == "b"


def test_unknown_disk_counts_as_remote_only_where_there_are_origins(scene: Scene) -> None:
    scene.table.set_tier(scene.rows["a"], scene.model("wanted"), NVME)
    scene.table.set_tier(scene.rows["b"], scene.model("wanted"), REMOTE)
    need = Need("wanted", "simulated", SIZE, has_origins=True)
    decision = place(
        scene.table,
        scene.demand,
        need,
        excluded=(),
        token_s=np.zeros(2),
        weights=DEFAULT_WEIGHTS,
        now_s=0.0,
        rng=Random(0),
    )
    assert decision.picked == scene.rows["a"]


def test_full_node_whose_model_is_called_is_spared(scene: Scene) -> None:
    scene.bind("a", "called", calls=50)
    scene.bind("b", "forgotten")
    assert scene.picked() == "b"
    assert scene.decide().terms_s["evict"][0] == pytest.approx(0.56, rel=0.01)


def test_evicting_counts_for_nothing_when_its_weight_is_zero(scene: Scene) -> None:
    scene.bind("a", "called", calls=50)
    assert scene.decide(weights={**DEFAULT_WEIGHTS, "evict": 0.0}).probability == 0.5


def test_model_with_another_replica_is_given_up_at_no_cost(scene: Scene) -> None:
    scene.bind("a", "twice", calls=50)
    scene.bind("b", "twice", calls=50)
    assert scene.decide().terms_s["evict"].tolist() == [0.0, 0.0]


def test_busy_node_is_waited_for(scene: Scene) -> None:
    scene.bind("a", "x", is_busy=True)
    scene.bind("b", "y", is_busy=False)
    assert scene.decide().terms_s["queue"].tolist() == [1.6, 0.0]


def test_last_copy_in_dram_of_a_called_model_is_worth_its_disk_time(scene: Scene) -> None:
    for name in "ab":
        scene.put(name, used_bytes=2 * SIZE, num_seats=2)
    scene.table.set_tier(scene.rows["a"], scene.model("called", calls=50), DRAM)
    scene.table.set_tier(scene.rows["b"], scene.model("forgotten"), DRAM)
    assert scene.decide().terms_s["evict"].tolist() == pytest.approx([2.0, 0.0], rel=0.01)
    scene.table.set_tier(scene.rows["b"], scene.model("called"), DRAM)
    assert scene.decide().terms_s["evict"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_alive": False}, "alive"),
        ({"speaks": False}, "version"),
        ({"is_drained": True}, "drained"),
        ({"engines": frozenset({"torch"})}, "engine"),
        ({"budget_bytes": SIZE - 1}, "memory"),
    ],
)
def test_node_that_lacks_one_thing_is_rejected_for_it(
    scene: Scene, change: dict[str, Any], reason: str
) -> None:
    scene.put("a", **change)
    decision = scene.decide()
    assert scene.table.agent_ids[decision.picked or 0] == "b"
    assert decision.candidates(scene.table.agent_ids, scene.table.device_sets)[0].rejected == reason


def test_node_that_fails_fast_does_not_look_idle(scene: Scene) -> None:
    scene.put("a", num_failures=2)
    scene.bind("b", "called", calls=50, is_busy=True)
    assert scene.picked() == "b"
    assert scene.picked(weights=dict.fromkeys(DEFAULT_WEIGHTS, 0.0)) == "b"


def test_all_weights_zero_picks_at_random(scene: Scene) -> None:
    scene.table.set_tier(scene.rows["b"], scene.model("wanted"), DRAM)
    assert scene.decide(weights=dict.fromkeys(DEFAULT_WEIGHTS, 0.0)).probability == 0.5


def test_agent_that_is_lost_keeps_nothing(scene: Scene) -> None:
    scene.bind("a", "m", calls=1)
    scene.table.clear(scene.rows["a"])
    model = scene.table.model("m")
    assert (scene.table.num_bound[model], scene.table.num_dram[model]) == (0, 0)
    assert scene.picked() == "b"


def test_new_agent_takes_the_row_of_one_that_left_and_nothing_of_what_it_had(scene: Scene) -> None:
    scene.bind("a", "m", calls=1)
    scene.table.clear(scene.rows["a"])
    assert scene.table.row("c", "cpu") == scene.rows["a"]
    assert scene.table.num_rows == 2
    assert scene.table.row("a", "cpu") == 2
    assert not scene.table.bound.of(scene.rows["a"])
