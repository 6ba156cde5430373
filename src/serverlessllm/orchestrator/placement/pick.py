# SPDX-License-Identifier: Apache-2.0
"""Smallest score wins; scores within 5 % of it are ties, broken at random so that equals share the load."""

from __future__ import annotations

from random import Random
from typing import Final

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Floats

TIE_RATIO: Final = 0.05
TIE_FLOOR_S: Final = 0.001
"""Differences below a millisecond are noise, whatever their ratio."""


def pick(scores_s: Floats, rng: Random) -> tuple[int, float]:
    """(index of the pick, the probability with which it was made). `scores_s` has a finite one; infinite are out."""
    best_s = float(scores_s.min())
    ties = np.flatnonzero(scores_s <= max(best_s * (1 + TIE_RATIO), best_s + TIE_FLOOR_S))
    return int(ties[rng.randrange(len(ties))]), 1 / len(ties)
