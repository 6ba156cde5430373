# SPDX-License-Identifier: Apache-2.0
"""Smallest score wins; scores within 5 % of it are ties, broken at random so that equals share the load."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

TIE_RATIO: Final = 0.05
TIE_FLOOR_S: Final = 0.001
"""Differences below a millisecond are noise, whatever their ratio."""


def pick(scores_s: Sequence[float], rng: Random) -> tuple[int, float]:
    """(index of the pick, the probability with which it was made). `scores_s` is not empty."""
    best_s = min(scores_s)
    limit_s = max(best_s * (1 + TIE_RATIO), best_s + TIE_FLOOR_S)
    ties = [index for index, score_s in enumerate(scores_s) if score_s <= limit_s]
    return rng.choice(ties), 1 / len(ties)
