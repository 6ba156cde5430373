# SPDX-License-Identifier: Apache-2.0
"""How many requests may wait for models to wake: per model, and over all. The rest is told when to come again.

`Retry-After` is the expected rest of the wake-up: what its load says is left, else what wake-ups took of late
(EWMA), less what this one has taken. Knows no request and starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serverlessllm.clock import Clock
from serverlessllm.errors import QueueFullError

FIRST_GUESS_S: Final = 5.0
MIN_RETRY_S: Final = 1.0
SHARE: Final = 0.25
"""The weight of the newest wake-up in what wake-ups are said to take."""


class HoldQueue:
    """Counts who waits. `eta_s(model)`: what the model's load has left, None when nothing loads."""

    def __init__(
        self, max_per_model: int, max_total: int, eta_s: Callable[[str], float | None], clock: Clock
    ) -> None:
        self._max_per_model = max_per_model
        self._max_total = max_total
        self._eta_s = eta_s
        self._clock = clock
        self._wake_s = FIRST_GUESS_S
        self.num_total = 0

    def enter(self, model: str, num_waiting: int, began_s: float) -> None:
        """One more waits for the model, as `num_waiting` do since `began_s` (monotonic). Raises QueueFullError."""
        if num_waiting >= self._max_per_model:
            why = f"{num_waiting} requests wait for {model} to wake already (orchestrator.max_held_requests)"
        elif self.num_total >= self._max_total:
            why = f"{self.num_total} requests wait for models to wake already (orchestrator.max_held_total)"
        else:
            self.num_total += 1
            return
        retry_after_s = self._retry_after_s(model, began_s)
        raise QueueFullError(f"{why}; try again in {retry_after_s:.0f} s", retry_after_s=retry_after_s)

    def leave(self) -> None:
        """One waits no longer."""
        self.num_total -= 1

    def took(self, wake_s: float) -> None:
        """A wake-up succeeded after so long."""
        self._wake_s += SHARE * (wake_s - self._wake_s)

    def _retry_after_s(self, model: str, began_s: float) -> float:
        eta_s = self._eta_s(model)
        if eta_s is None:
            eta_s = self._wake_s - (self._clock.monotonic_s() - began_s)
        return max(MIN_RETRY_S, eta_s)
