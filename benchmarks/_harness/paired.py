# SPDX-License-Identifier: Apache-2.0
"""Two measurements made side by side, round by round: their ratio, and how sure we are of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """The median of the rounds' ratios, and an interval that holds the true median with 95 % confidence."""

    median: float
    low: float
    high: float

    def as_figures(self, name: str) -> dict[str, float]:
        """`<name>_ratio`, `<name>_ratio_low`, `<name>_ratio_high`."""
        return {f"{name}_ratio": self.median, f"{name}_ratio_low": self.low, f"{name}_ratio_high": self.high}


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """`above / below` of each round: what disturbs a whole round, as on a shared machine, cancels out.

    The interval comes from the order of the ratios alone (binomial; no distribution is assumed): of six rounds or
    more the narrowest pair of ratios that suffices, of fewer the extremes. Raises ValueError for unequal lengths.
    """
    ratios = sorted(one / other for one, other in zip(above, below, strict=True))
    skipped = _num_skipped(len(ratios))
    return Interval(median(ratios), ratios[skipped], ratios[-1 - skipped])


def _num_skipped(n: int) -> int:
    """How many ratios may be left out at each end: P(the median lies beyond one of them) stays below 5 %."""
    skipped = 0
    outside = 2 * 0.5**n
    while skipped + 1 < n / 2:
        outside += 2 * comb(n, skipped + 1) * 0.5**n
        if outside > 1 - CONFIDENCE:
            break
        skipped += 1
    return skipped
