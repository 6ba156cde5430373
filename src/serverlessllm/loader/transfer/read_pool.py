# SPDX-License-Identifier: Apache-2.0
"""The node's reading threads, shared by all loads: who reads next is a matter of `turns.FairTurns`.

A device gives its best with a few requests in flight, however many loads there are; so the threads belong to the
device, and a load with twice the weight gets twice the bytes. Knows no chunks and no files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Protocol

from serverlessllm.loader.transfer.turns import FairTurns

Work = tuple[int, Callable[[], None]]
"""(bytes, what to do): the callable must not raise."""

STOP_PATIENCE_S: Final = 60.0


class Lane(Protocol):
    """One load's reads."""

    def take(self) -> Work | None:
        """The next read, or None when no more will come. Short; called with the pool's lock held."""


class ReadPool:
    """`num_threads` threads, started with the first lane, ended by `close`. Safe to call from any thread."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._turns: FairTurns[Lane] = FairTurns()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def add(self, lane: Lane, weight: float) -> None:
        """Begin to read for `lane`. Raises: RuntimeError when the pool is closed or there are no threads."""
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the reading threads have ended")
            while len(self._threads) < self.num_threads:
                thread = threading.Thread(target=self._work, name=f"read-{len(self._threads)}", daemon=True)
                thread.start()
                self._threads.append(thread)
            self._turns.join(lane, weight)
            self._changed.notify_all()

    def remove(self, lane: Lane) -> None:
        """Give `lane` no further turn; what it has begun goes on."""
        with self._changed:
            self._turns.leave(lane)

    def close(self) -> None:
        """End the threads; remove all lanes first. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(STOP_PATIENCE_S)

    def _work(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Callable[[], None] | None:
        """Wait for a turn; None when the pool is closed."""
        with self._changed:
            while not self._is_closed:
                lane = self._turns.next()
                if lane is None:
                    self._changed.wait()
                    continue
                taken = lane.take()
                if taken is None:
                    self._turns.leave(lane)
                    continue
                nbytes, work = taken
                self._turns.charge(lane, nbytes)
                return work
        return None
