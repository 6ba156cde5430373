# SPDX-License-Identifier: Apache-2.0
"""A decision, and the record that explains it."""

from __future__ import annotations

from random import Random

import numpy as np

from serverlessllm.orchestrator.placement.decide import Decision, decide
from serverlessllm.orchestrator.placement.filter import FITS, REASONS, Reason
from serverlessllm.orchestrator.placement.score import DEFAULT_WEIGHTS


def decide_among(rejected: list[Reason | None], load_s: list[float]) -> Decision:
    codes = [FITS if reason is None else REASONS.index(reason) for reason in rejected]
    terms_s = {"load": np.array(load_s), "failures": np.zeros(len(load_s))}
    return decide(np.array(codes, dtype=np.uint8), terms_s, DEFAULT_WEIGHTS, Random(0))


def test_best_that_fits_is_picked_and_the_record_says_why() -> None:
    decision = decide_among(["memory", None, None], [0.0, 10.0, 1.0])
    assert (decision.picked, decision.probability) == (2, 1.0)
    small, far, near = decision.candidates(["small", "far", "near"], ["cpu"] * 3)
    assert (small.rejected, small.score_s) == ("memory", None)
    assert (far.terms_s["load"], far.score_s, near.score_s) == (10.0, 10.0, 1.0)


def test_nobody_fits_is_no_pick() -> None:
    decision = decide_among(["memory", "excluded", "alive"], [0.0, 0.0, 0.0])
    assert decision.picked is None
    assert decision.is_rejected_only_for("memory")


def test_mixed_reasons_and_no_candidates_are_not_one_reason() -> None:
    assert not decide_among(["memory", "engine"], [0.0, 0.0]).is_rejected_only_for("memory")
    assert not decide_among(["alive"], [0.0]).is_rejected_only_for("memory")


def test_row_of_an_agent_that_left_is_not_shown() -> None:
    shown = decide_among(["alive", None], [0.0, 0.0]).candidates(["", "b"], ["cpu", "cpu"])
    assert [candidate.agent_id for candidate in shown] == ["b"]
