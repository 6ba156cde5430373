# SPDX-License-Identifier: Apache-2.0
"""The weighted sum."""

from __future__ import annotations

import numpy as np

from serverlessllm.orchestrator.placement.score import score


def test_score_is_the_weighted_sum_and_a_term_without_weight_counts_once() -> None:
    terms_s = {"queue": np.array([2.0, 0.0]), "load": np.array([3.0, 3.0]), "failures": np.array([5.0, 0.0])}
    assert score(terms_s, {"queue": 10.0, "load": 0.0}).tolist() == [25.0, 0.0]
