# SPDX-License-Identifier: Apache-2.0
"""The smallest score wins; near ties share."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serverlessllm.orchestrator.placement.pick import TIE_FLOOR_S, TIE_RATIO, pick


def test_clear_winner_is_certain() -> None:
    assert pick(np.array([3.0, 1.0, np.inf]), Random(0)) == (1, 1.0)


def test_scores_within_five_percent_are_picked_alike() -> None:
    rng = Random(0)
    picks = Counter(pick(np.array([1.00, 1.04, 1.06]), rng) for _ in range(400))
    assert set(picks) == {(0, 0.5), (1, 0.5)}
    assert min(picks.values()) > 150


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.integers())
def test_pick_is_never_worse_than_a_tie(scores: list[float], seed: int) -> None:
    index, probability = pick(np.array(scores), Random(seed))
    best = min(scores)
    assert scores[index] <= max(best * (1 + TIE_RATIO), best + TIE_FLOOR_S)
    assert 0 < probability <= 1
