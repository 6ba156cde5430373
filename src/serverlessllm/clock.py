# SPDX-License-Identifier: Apache-2.0
"""Time behind a Protocol, so that pure code takes it as an argument and tests move it by hand."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings: `monotonic_s` for intervals, `wall_s` (Unix seconds) for records that outlive us."""

    def monotonic_s(self) -> float: ...

    def wall_s(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()
