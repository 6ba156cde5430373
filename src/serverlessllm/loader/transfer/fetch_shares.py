# SPDX-License-Identifier: Apache-2.0
"""How many connections each of the running fetches may use: in proportion to their weights.

The network shares itself out among connections, so a fetch of half the weight gets half of them. The heaviest has
all: what no other fetch would use is not held back. Knows no origins and no bytes. Safe to use from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class FetchShare:
    """One fetch's part, for as long as it runs."""

    def __init__(self, shares: FetchShares, weight: float) -> None:
        self.weight = weight
        self._shares = shares

    @property
    def num_connections(self) -> int:
        """What it may use now; at least one. Changes as others come and go."""
        return self._shares.num_connections(self.weight)


class FetchShares:
    """All running fetches of a node; `most` connections are for the heaviest of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._running: set[FetchShare] = set()

    @contextmanager
    def join(self, weight: float) -> Iterator[FetchShare]:
        """Take part until the end of the `with`. Raises: ValueError for a weight that is not positive."""
        if weight <= 0:
            raise ValueError(f"a weight of {weight} gives no share")
        share = FetchShare(self, weight)
        with self._lock:
            self._running.add(share)
        try:
            yield share
        finally:
            with self._lock:
                self._running.remove(share)

    def num_connections(self, weight: float) -> int:
        """What a fetch of this weight may use beside those that run."""
        with self._lock:
            heaviest = max([weight, *(share.weight for share in self._running)])
        return max(1, round(self.most * weight / heaviest))
