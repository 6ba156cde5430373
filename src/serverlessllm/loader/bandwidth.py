# SPDX-License-Identifier: Apache-2.0
"""Bandwidth as observed: an exponentially weighted mean and variance per tier and source. Pure; reads no clock.

Source: the incremental form of T. Finch, "Incremental calculation of weighted mean and variance" (2009); ours
weighs a transfer by its size, because a small one measures latency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serverlessllm.types import Tier

SMOOTHING: Final = 0.25
FULL_WEIGHT_BYTES: Final = 64 << 20
"""Transfers of this size or more count in full, smaller ones in proportion."""
CLOCK_RESOLUTION_S: Final = 1e-9
MAX_SOURCES: Final = 64
"""Sources that are remembered; the one observed longest ago is forgotten."""

ASSUMED_BYTES_PER_S: Final[dict[Tier, float]] = {
    "gpu": 2e12,
    "dram": 1e10,
    "nvme": 1e9,
    "peer": 1e9,
    "remote": 1e8,
}
"""What a tier is taken to give until it was measured."""


@dataclass(frozen=True, slots=True)
class BandwidthEstimate:
    """Mean in bytes/s, variance in (bytes/s)²; with no samples the mean is an assumption."""

    mean_bytes_per_s: float
    variance: float
    samples: int


class BandwidthMeter:
    """Observations of one node: per tier, and per source within it (a disk, an origin)."""

    def __init__(self) -> None:
        self._tiers: dict[Tier, BandwidthEstimate] = {}
        self._sources: dict[tuple[Tier, str], BandwidthEstimate] = {}
        self._best: dict[Tier, float] = {}

    def observe(self, tier: Tier, nbytes: int, seconds: float, *, source: str = "") -> None:
        """Count one transfer; one without bytes, or too short for the clock, says nothing and is ignored.

        With `source` it counts for that source too.
        """
        if nbytes <= 0 or seconds < CLOCK_RESOLUTION_S:
            return
        rate = nbytes / seconds
        self._best[tier] = max(rate, self._best.get(tier, 0.0))
        self._tiers[tier] = _next(self._tiers.get(tier), rate, nbytes)
        if source:
            self._observe_source((tier, source), rate, nbytes)

    def observe_source(self, tier: Tier, source: str, nbytes: int, seconds: float) -> None:
        """Count one source's part of a transfer that several had a part in; the tier is counted by itself."""
        if nbytes > 0 and seconds >= CLOCK_RESOLUTION_S:
            self._observe_source((tier, source), nbytes / seconds, nbytes)

    def estimate(self, tier: Tier) -> BandwidthEstimate:
        """What to expect of `tier`."""
        return self._tiers.get(tier, BandwidthEstimate(ASSUMED_BYTES_PER_S[tier], 0.0, 0))

    def sources(self) -> dict[tuple[Tier, str], BandwidthEstimate]:
        """What each source gave, those observed last at the end."""
        return dict(self._sources)

    def best_bytes_per_s(self, tier: Tier) -> float:
        """The fastest transfer seen; 0 before the first."""
        return self._best.get(tier, 0.0)

    def _observe_source(self, key: tuple[Tier, str], rate: float, nbytes: int) -> None:
        self._sources[key] = _next(self._sources.pop(key, None), rate, nbytes)
        if len(self._sources) > MAX_SOURCES:
            del self._sources[next(iter(self._sources))]


def _next(old: BandwidthEstimate | None, rate: float, nbytes: int) -> BandwidthEstimate:
    """The estimate after one more transfer."""
    if old is None:
        return BandwidthEstimate(rate, 0.0, 1)
    weight = SMOOTHING * min(1.0, nbytes / FULL_WEIGHT_BYTES)
    step = weight * (rate - old.mean_bytes_per_s)
    variance = (1 - weight) * (old.variance + step * (rate - old.mean_bytes_per_s))
    return BandwidthEstimate(old.mean_bytes_per_s + step, variance, old.samples + 1)
