# SPDX-License-Identifier: Apache-2.0
"""The ring of placement decisions."""

from __future__ import annotations

from random import Random

import numpy as np

from serverlessllm.orchestrator.decisions import DecisionRing, KeptDecision
from serverlessllm.orchestrator.placement.decide import decide
from serverlessllm.orchestrator.placement.filter import FITS
from serverlessllm.wire.admin import DecisionKind


def kept(attempt: int, *, kind: DecisionKind = "wake", request_id: str | None = None) -> KeptDecision:
    one = decide(np.array([FITS], dtype=np.uint8), {"load": np.array([2.0])}, {"load": 1.0}, Random(0))
    return KeptDecision(kind, "m", "r", attempt, float(attempt), one, ["a"], ["cpu"], request_id)


def test_outcome_and_first_ttft_are_added_to_the_decision() -> None:
    ring = DecisionRing()
    ring.add(kept(1))
    ring.settle("m", 1, wake_ms=12.345, outcome="ready")
    ring.served("m", 1, "q1", ttft_ms=20.0, outcome="done")
    ring.served("m", 1, "q2", ttft_ms=1.0, outcome="done")
    record = ring.get("m", 1)
    assert record is not None
    assert (record.outcome, record.wake_ms, record.ttft_ms, record.request_id) == ("ready", 12.35, 20.0, "q1")
    assert (record.picked, record.candidates[0].terms_s, record.version) == ("a", {"load": 2.0}, 2)


def test_route_learns_how_its_request_ended() -> None:
    ring = DecisionRing()
    ring.add_route(kept(1, kind="route", request_id="q"))
    ring.served("m", 1, "q", ttft_ms=0.0, outcome="failed")
    record = ring.route("q")
    assert record is not None and (record.outcome, record.ttft_ms) == ("failed", None)


def test_oldest_decision_falls_out() -> None:
    ring = DecisionRing(max_decisions=2)
    for attempt in (1, 2, 3):
        ring.add(kept(attempt))
    ring.settle("m", 1, wake_ms=1.0, outcome="ready")
    assert [ring.get("m", attempt) is not None for attempt in (1, 2, 3)] == [False, True, True]


def test_recent_ones_are_of_both_kinds_in_the_order_in_which_they_were_made() -> None:
    ring = DecisionRing()
    ring.add_route(kept(2, kind="route", request_id="q"))
    ring.add(kept(1))
    ring.add(kept(3))
    assert [(record.attempt, record.kind) for record in ring.recent(2)] == [(2, "route"), (3, "wake")]
