# SPDX-License-Identifier: Apache-2.0
"""The ring of placement decisions."""

from __future__ import annotations

from serverlessllm.orchestrator.decisions import DecisionRing
from serverlessllm.wire.admin import PlacementDecision


def decision(attempt: int) -> PlacementDecision:
    return PlacementDecision(
        model="m",
        revision="r",
        attempt=attempt,
        decided_s=0.0,
        candidates=[],
        weights={},
        picked="a",
        probability=1.0,
    )


def test_outcome_is_added_to_the_decision() -> None:
    ring = DecisionRing()
    ring.add(decision(1))
    ring.settle("m", 1, wake_ms=12.345, outcome="ready")
    kept = ring.get("m", 1)
    assert kept is not None and (kept.outcome, kept.wake_ms) == ("ready", 12.35)


def test_oldest_decision_falls_out() -> None:
    ring = DecisionRing(max_decisions=2)
    for attempt in (1, 2, 3):
        ring.add(decision(attempt))
    ring.settle("m", 1, wake_ms=1.0, outcome="ready")
    assert [ring.get("m", attempt) is not None for attempt in (1, 2, 3)] == [False, True, True]
