# SPDX-License-Identifier: Apache-2.0
"""A histogram for the hot path: observed from one event loop, so without locks, and cumulated when it is read.

`prometheus_client`'s own takes a lock twice and walks its buckets for each observation: a token's worth of time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from math import inf

from prometheus_client import Histogram
from prometheus_client.samples import Sample


class LoopHistogram(Histogram):
    """As `prometheus_client.Histogram`; `observe` and the scrape must be called in one thread. Takes no exemplars."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._counts = [0] * len(self._upper_bounds)
        self._total = 0.0
        self._names = {bound: "+Inf" if bound == inf else str(bound) for bound in self._upper_bounds}

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count one value."""
        self._counts[bisect_left(self._upper_bounds, amount)] += 1
        self._total += amount

    def _child_samples(self) -> Iterable[Sample]:
        count = 0
        for bound, num in zip(self._upper_bounds, self._counts, strict=True):
            count += num
            yield Sample("_bucket", {"le": self._names[bound]}, float(count))
        yield Sample("_count", {}, float(count))
        yield Sample("_sum", {}, self._total)
        yield Sample("_created", {}, self._created)
