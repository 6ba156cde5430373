# SPDX-License-Identifier: Apache-2.0
"""A decision, and the record that explains it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from serverlessllm.orchestrator.placement.decide import Decision, decide
from serverlessllm.orchestrator.placement.facts import AgentFacts, Need
from serverlessllm.orchestrator.placement.score import DEFAULT_WEIGHTS

NEED = Need("m", "r", "torch", nbytes=1_000)
NEAR = AgentFacts("near", "cpu", True, False, frozenset({"torch"}), 10_000, 0, 100.0, 0.0, 0)
FAR = replace(NEAR, agent_id="far", bytes_missing=1_000)
SMALL = replace(NEAR, agent_id="small", budget_bytes=10)


def decide_among(*agents: AgentFacts, excluded: frozenset[str] = frozenset()) -> Decision:
    return decide(NEED, agents, excluded, DEFAULT_WEIGHTS, Random(0))


def test_agent_that_has_the_bytes_is_picked_and_the_record_says_why() -> None:
    decision = decide_among(SMALL, FAR, NEAR)
    assert decision.picked == 2
    small, far, near = decision.candidates
    assert (small.rejected, small.score_s) == ("memory", None)
    assert (far.terms_s["load"], far.score_s) == (10.0, 10.0)
    assert near.score_s == 0.0


def test_excluded_agent_is_passed_over() -> None:
    assert decide_among(FAR, NEAR, excluded=frozenset({"near"})).picked == 0


def test_nobody_fits_is_no_pick() -> None:
    decision = decide_among(SMALL, SMALL)
    assert decision.picked is None
    assert decision.is_rejected_only_for("memory")


def test_mixed_reasons_are_not_one_reason() -> None:
    other = replace(NEAR, engines=frozenset())
    assert not decide_among(SMALL, other).is_rejected_only_for("memory")


def test_no_agents_are_no_reason() -> None:
    assert not decide_among().is_rejected_only_for("memory")
