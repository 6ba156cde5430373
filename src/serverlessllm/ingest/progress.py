# SPDX-License-Identifier: Apache-2.0
"""How far a conversion is, told at most ten times a second. Knows no output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serverlessllm.clock import Clock
from serverlessllm.wire.ingest import ConvertProgress

_INTERVAL_S: Final = 0.1


class ProgressMeter:
    """Counts bytes; the first and the last report are never left out."""

    def __init__(
        self, total_bytes: int, on_progress: Callable[[ConvertProgress], None] | None, clock: Clock
    ) -> None:
        self._total_bytes = total_bytes
        self._on_progress = on_progress
        self._clock = clock
        self._started_s = clock.monotonic_s()
        self._reported_s = self._started_s - _INTERVAL_S
        self._done_bytes = 0

    def advance(self, nbytes: int) -> None:
        """`nbytes` more are written."""
        self._done_bytes += nbytes
        now_s = self._clock.monotonic_s()
        is_last = self._done_bytes >= self._total_bytes
        if self._on_progress is None or (now_s - self._reported_s < _INTERVAL_S and not is_last):
            return
        self._reported_s = now_s
        self._on_progress(ConvertProgress(self._done_bytes, self._total_bytes, self._eta_s(now_s)))

    def _eta_s(self, now_s: float) -> float | None:
        """At the mean rate so far; None before anything was written."""
        if not self._done_bytes:
            return None
        left_bytes = self._total_bytes - self._done_bytes
        return round((now_s - self._started_s) * left_bytes / self._done_bytes, 3)
