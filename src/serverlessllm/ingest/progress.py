# SPDX-License-Identifier: Apache-2.0
"""How far a phase of a job is, told at most ten times a second. Knows no output."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from serverlessllm.clock import Clock
from serverlessllm.wire.ingest import JobPhase, Progress

_INTERVAL_S: Final = 0.1


class ProgressMeter:
    """Counts bytes; the first and the last report are never left out. For one thread at a time."""

    def __init__(
        self,
        total_bytes: int,
        on_progress: Callable[[Progress], None] | None,
        clock: Clock,
        *,
        phase: JobPhase = "convert",
    ) -> None:
        """`total_bytes` 0: not known yet."""
        self._total_bytes = total_bytes
        self._on_progress = on_progress
        self._clock = clock
        self._phase = phase
        self._started_s = clock.monotonic_s()
        self._reported_s = -math.inf
        self._kept_bytes = 0
        self._done_bytes = 0

    def advance(self, nbytes: int) -> None:
        """`nbytes` more are done."""
        self.reach(self._done_bytes + nbytes, self._total_bytes)

    def reach(self, done_bytes: int, total_bytes: int, *, kept_bytes: int = 0) -> None:
        """So many bytes are done; `kept_bytes` of them by an earlier run, which says nothing of the speed."""
        self._done_bytes, self._total_bytes, self._kept_bytes = done_bytes, total_bytes, kept_bytes
        now_s = self._clock.monotonic_s()
        is_last = done_bytes >= total_bytes
        if self._on_progress is None or (now_s - self._reported_s < _INTERVAL_S and not is_last):
            return
        self._reported_s = now_s
        rate = self._bytes_per_s(now_s)
        left_bytes = total_bytes - done_bytes
        eta_s = round(left_bytes / rate, 3) if rate else (None if left_bytes else 0.0)
        self._on_progress(Progress(done_bytes, total_bytes, eta_s, self._phase, round(rate, 1)))

    def _bytes_per_s(self, now_s: float) -> float:
        """The mean rate so far; 0 while it is not known."""
        elapsed_s = now_s - self._started_s
        return (self._done_bytes - self._kept_bytes) / elapsed_s if elapsed_s > 0 else 0.0
