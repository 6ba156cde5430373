# SPDX-License-Identifier: Apache-2.0
"""The bounded queue of one replica, ordered by (priority, deadline, arrival); a lower priority number goes first.

Owned by one event loop. Knows no slot and starts no timers: its replica says when there is a seat, and calls
`Entry.expire` when a deadline passes without one.
"""

from __future__ import annotations

import asyncio
import math
from bisect import insort
from collections.abc import Callable

from serverlessllm.errors import HoldDeadlineError, QueueFullError, SllmError

NO_DEADLINE_S = math.inf


class Entry:
    """One waiting request. `granted` is set when its turn has come, or fails with the reason why it will not."""

    __slots__ = ("deadline_s", "granted", "order")

    def __init__(self, priority: int, deadline_s: float, arrival: int) -> None:
        self.deadline_s = deadline_s
        self.order = (priority, deadline_s, arrival)
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __lt__(self, other: Entry) -> bool:
        return self.order < other.order

    @property
    def is_granted(self) -> bool:
        """Whether it has been given a seat that somebody must give back."""
        return self.granted.done() and not self.granted.cancelled() and self.granted.exception() is None

    def expire(self) -> None:
        """The deadline has passed: fail with HoldDeadlineError, unless the turn came before."""
        self.fail(
            HoldDeadlineError("the request's deadline passed while it waited for its turn", source="agent")
        )

    def fail(self, error: SllmError) -> None:
        """End the wait with `error`; no effect once it has ended."""
        if not self.granted.done():
            self.granted.set_exception(error)


class RequestQueue:
    """At most `max_length` waiting requests. Ensures: an entry leaves exactly once."""

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self._entries: list[Entry] = []
        self._num_arrivals = 0

    def __len__(self) -> int:
        return len(self._entries)

    def push(self, priority: int, deadline_s: float = NO_DEADLINE_S, *, retry_after_s: float = 1.0) -> Entry:
        """Add a request. `deadline_s` is a reading of the monotonic clock.

        Raises: QueueFullError carrying `retry_after_s`; then nothing was queued.
        """
        if len(self._entries) >= self._max_length:
            raise QueueFullError(
                f"{self._max_length} requests wait for this model already; retry in {retry_after_s:.0f} s",
                source="agent",
                retry_after_s=retry_after_s,
            )
        self._num_arrivals += 1
        entry = Entry(priority, deadline_s, self._num_arrivals)
        insort(self._entries, entry)
        return entry

    def pop(self, now_s: float) -> Entry | None:
        """Take the first entry that still waits; those whose deadline has passed fail on the way."""
        while self._entries:
            entry = self._entries.pop(0)
            if entry.deadline_s <= now_s:
                entry.expire()
            if not entry.granted.done():
                return entry
        return None

    def discard(self, entry: Entry) -> None:
        """Forget an entry whose waiter has left; one that is out already is no error."""
        if entry in self._entries:
            self._entries.remove(entry)
        entry.granted.cancel()

    def fail_all(self, error: Callable[[], SllmError]) -> None:
        """End every wait, each with an error of its own."""
        entries, self._entries = self._entries, []
        for entry in entries:
            entry.fail(error())
