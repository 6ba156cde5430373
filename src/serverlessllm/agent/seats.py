# SPDX-License-Identifier: Apache-2.0
"""The seats at one replica's engine, and the queue of those who wait for one.

A seat is granted in the same step in which another request leaves it, so none stays empty while someone waits.
Lives on one event loop; knows no engine.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from serverlessllm.agent.queue import RequestQueue
from serverlessllm.clock import Clock
from serverlessllm.errors import SllmError

NUM_AHEAD: Final = 1
"""Requests given to the engine beyond those that it decodes: without one at hand, a sequence that ends leaves its
place empty for a whole step. Each one more would be out of reach of the priorities."""
_SMOOTHING: Final = 0.2
_MIN_RETRY_AFTER_S: Final = 1.0
_MAX_RETRY_AFTER_S: Final = 60.0


class Seats:
    """closed → `open` → `close`. `refusal` makes the error for who comes while it is closed.

    `on_change` is called after every change of the two counts.
    """

    def __init__(
        self,
        queue: RequestQueue,
        clock: Clock,
        *,
        refusal: Callable[[], SllmError],
        on_change: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._refusal = refusal
        self._on_change = on_change
        self._num_seats = 0
        self._mean_request_s = 0.0
        self._idle_since_s = clock.monotonic_s()
        self.num_taken = 0
        self.had_request = False
        self.empty = asyncio.Event()

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def num_together(self) -> int:
        """Requests that the engine computes together; 0 while closed."""
        return max(0, self._num_seats - NUM_AHEAD)

    @property
    def mean_request_s(self) -> float:
        """How long a request held its seat, on the mean of the last ones; 0 before the first has left."""
        return self._mean_request_s

    @property
    def is_idle(self) -> bool:
        """Whether nobody sits and nobody waits."""
        return not self.num_taken and not len(self._queue)

    @property
    def idle_s(self) -> float:
        """Seconds since the last request left, or since they were opened; 0 while in use."""
        return self._clock.monotonic_s() - self._idle_since_s if self.is_idle else 0.0

    def open(self, max_num_seqs: int) -> None:
        """Take requests from now on, for an engine that decodes `max_num_seqs` together."""
        self._num_seats = max_num_seqs + NUM_AHEAD
        self._idle_since_s = self._clock.monotonic_s()

    def close(self) -> None:
        """Refuse who comes and send away who waits; `empty` is set once nobody sits."""
        self._num_seats = 0
        self._queue.fail_all(self._refusal)
        if not self.num_taken:
            self.empty.set()

    @asynccontextmanager
    async def seat(self, priority: int, deadline_s: float) -> AsyncIterator[None]:
        """Wait for a seat and hold it for the block. `deadline_s` is on the monotonic clock.

        Raises: the refusal, also when they are closed meanwhile; QueueFullError; HoldDeadlineError.
        """
        await self._take(priority, deadline_s)
        started_s = self._clock.monotonic_s()
        try:
            yield
        finally:
            held_s = self._clock.monotonic_s() - started_s
            known_s = self._mean_request_s or held_s
            self._mean_request_s = known_s + _SMOOTHING * (held_s - known_s)
            self._leave()

    async def _take(self, priority: int, deadline_s: float) -> None:
        if not self._num_seats:
            raise self._refusal()
        self.had_request = True
        if self.num_taken < self._num_seats and not len(self._queue):
            self.num_taken += 1
            self._on_change()
        else:
            await self._wait(priority, deadline_s)

    async def _wait(self, priority: int, deadline_s: float) -> None:
        entry = self._queue.push(priority, deadline_s, retry_after_s=self._retry_after_s())
        self._on_change()
        timer = None
        if math.isfinite(deadline_s):
            left_s = max(0.0, deadline_s - self._clock.monotonic_s())
            timer = asyncio.get_running_loop().call_later(left_s, entry.expire)
        try:
            await entry.granted
        except asyncio.CancelledError:
            if entry.is_granted:  # the seat came in the very moment in which the client left
                self._leave()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._queue.discard(entry)
            self._on_change()

    def _leave(self) -> None:
        self.num_taken -= 1
        self._idle_since_s = self._clock.monotonic_s()
        while self.num_taken < self._num_seats and (entry := self._queue.pop(self._idle_since_s)) is not None:
            self.num_taken += 1
            entry.granted.set_result(None)
        if not self._num_seats and not self.num_taken:
            self.empty.set()
        self._on_change()

    def _retry_after_s(self) -> float:
        """When a place in the queue should come free: a request ends every (mean duration / seats)."""
        return min(_MAX_RETRY_AFTER_S, max(_MIN_RETRY_AFTER_S, self._mean_request_s / self._num_seats))
