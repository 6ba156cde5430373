# SPDX-License-Identifier: Apache-2.0
"""Medians and percentiles of small samples."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

__all__ = ["median", "percentile"]


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile (no interpolation): a value that was really observed."""
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]
