# SPDX-License-Identifier: Apache-2.0
"""What of a plan has arrived: bytes, and shards in execution order. Knows no tier and no thread's business.

Called by the threads of several sources at once; each call is short.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from serverlessllm.loader.plan import LoadPlan

OnProgress = Callable[[int, int], None]
"""(bytes done, shards ready): called after each arrival, never by two threads at once."""


class Arrivals:
    """Shards are announced in order: shard i only when 0 … i are whole."""

    def __init__(self, plan: LoadPlan, on_progress: OnProgress) -> None:
        self._total_bytes = plan.total_bytes
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._missing_bytes = [0] * len(plan.shard_ids)
        for read in plan.reads:
            self._missing_bytes[read.shard] += read.nbytes
        self._done_bytes = 0
        self._num_ready = 0

    @property
    def is_complete(self) -> bool:
        """Whether everything is there."""
        return self._done_bytes == self._total_bytes

    def note(self, shard: int, nbytes: int) -> None:
        """`nbytes` of a shard are in their place, and right as far as they had to be checked."""
        with self._lock:
            self._done_bytes += nbytes
            self._missing_bytes[shard] -= nbytes
            while self._num_ready < len(self._missing_bytes) and self._missing_bytes[self._num_ready] == 0:
                self._num_ready += 1
            self._on_progress(self._done_bytes, self._num_ready)
