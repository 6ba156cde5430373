# SPDX-License-Identifier: Apache-2.0
"""One agent's circuit breaker: whether requests go to an agent that has just failed several in a row.

    state     → entered by                                  what is let through
    closed    → the start; a probe that was answered        everything
    open      → MAX_FAILURES failures in a row; a probe that failed, then for twice as long
    half_open → the pause is over                           one probe, and another when it stays unanswered

Pauses are jittered, so that many orchestrators do not probe at once. Knows no agent and no request: which failures
count is told by the caller.
"""

from __future__ import annotations

from random import Random
from typing import Final, Literal

from serverlessllm.clock import Clock

BreakerState = Literal["closed", "open", "half_open"]

MAX_FAILURES: Final = 3
FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 30.0


class Breaker:
    """Ask `admits`, call `begin` for a request that goes out, then `succeeded` or `failed`."""

    __slots__ = ("_clock", "_is_probing", "_num_failures", "_pause_s", "_rng", "_until_s", "num_openings")

    def __init__(self, clock: Clock, rng: Random | None = None) -> None:
        self._clock = clock
        self._rng = rng or Random()
        self._num_failures = 0
        self._pause_s = 0.0
        self._until_s = 0.0
        self._is_probing = False
        self.num_openings = 0

    @property
    def is_closed(self) -> bool:
        """Whether nothing is wrong."""
        return self._pause_s == 0.0

    @property
    def state(self) -> BreakerState:
        """See the table above."""
        if self.is_closed:
            return "closed"
        return "half_open" if self._is_probing or self._is_due else "open"

    @property
    def admits(self) -> bool:
        """Whether a request may go there now."""
        return self.is_closed or self._is_due

    @property
    def _is_due(self) -> bool:
        return self._clock.monotonic_s() >= self._until_s

    def begin(self) -> None:
        """A request goes there; of a breaker that is not closed it is the probe."""
        if not self.is_closed:
            self._is_probing = True
            self._rest()

    def succeeded(self) -> None:
        """A request was answered. One that began before the breaker opened says nothing of now."""
        self._num_failures = 0
        if self._is_probing or self._is_due:
            self.reset()

    def failed(self) -> None:
        """A request failed by the agent's fault. While open, those that began earlier change nothing."""
        if self.is_closed:
            self._num_failures += 1
            if self._num_failures >= MAX_FAILURES:
                self._open(FIRST_PAUSE_S)
        elif self._is_probing or self._is_due:
            self._open(min(MAX_PAUSE_S, 2 * self._pause_s))

    def reset(self) -> None:
        """The agent is a new one, or has shown that it works."""
        self._num_failures, self._pause_s, self._is_probing = 0, 0.0, False

    def _open(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._is_probing = False
        self.num_openings += 1
        self._rest()

    def _rest(self) -> None:
        self._until_s = self._clock.monotonic_s() + self._pause_s * self._rng.uniform(0.5, 1.5)
