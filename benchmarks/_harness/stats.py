# SPDX-License-Identifier: Apache-2.0
"""Medians, percentiles and intervals of small samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Interval", "median", "median_interval", "percentile"]


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile (no interpolation): a value that was really observed."""
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


@dataclass(frozen=True, slots=True)
class Interval:
    """The true median lies between `low` and `high` with probability `confidence`."""

    low: float
    high: float
    confidence: float


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> Interval:
    """The narrowest interval of order statistics with at least that confidence, whatever the distribution.

    Fewer than six samples do not reach 95 %: then it spans all of them, and says what that is worth.
    Source: the sign test inverted; W. Conover, "Practical Nonparametric Statistics", 3.2.
    """
    ordered, n = sorted(samples), len(samples)
    best = Interval(ordered[0], ordered[-1], 1 - 2 * 0.5**n)
    below = 0.0
    for rank in range(1, (n + 1) // 2):
        below += math.comb(n, rank - 1) * 0.5**n
        covered = 1 - 2 * (below + math.comb(n, rank) * 0.5**n)
        if covered < confidence:
            break
        best = Interval(ordered[rank], ordered[n - 1 - rank], covered)
    return best
