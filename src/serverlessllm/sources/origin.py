# SPDX-License-Identifier: Apache-2.0
"""One origin of a download: how fast it is, how much it is asked for, and whether it is still trusted.

Pure but for the random jitter that it is given: no clock, no threads; times are arguments. The download's lock
guards it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from serverlessllm.sources.base import Source

DECAY: Final = 0.9
"""Weight of the past per finished piece: the pace forgets half of it in seven pieces."""
FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0
MAX_FAILURES: Final = 10
"""Failures in a row before an origin is given up: about 15 seconds of waiting."""
MAX_CORRUPT: Final = 2
"""Bad pieces after which the last origin that is left is given up too: a single one may be the road's fault."""


@dataclass(frozen=True, slots=True)
class OriginReport:
    """What one origin contributed. `gbps` counts the time in which it was asked for something.

    `closed` says why it was given up or quarantined; `num_corrupt` is how many bad pieces it sent.
    """

    name: str
    nbytes: int
    num_pieces: int
    num_failures: int
    num_corrupt: int
    busy_s: float
    closed: str | None

    @property
    def gbps(self) -> float:
        """10⁹ bytes per second while busy."""
        return self.nbytes / self.busy_s / 1e9 if self.busy_s > 0 else 0.0


class Origin:
    """State of one source of a download."""

    def __init__(self, source: Source, jitter: random.Random, *, max_failures: int = MAX_FAILURES) -> None:
        self.source = source
        self._max_failures = max_failures
        self.closed: str | None = None
        self.is_corrupt = False
        self.is_exhausted = False
        self.outstanding_bytes = 0
        self.num_outstanding = 0
        self.not_before_s = 0.0
        self._jitter = jitter
        self._failures_in_row = 0
        self._last_failure_s = -1.0
        self._nbytes = self._num_pieces = self._num_failures = self._num_corrupt = 0
        self._busy_s = 0.0
        self._busy_since_s = 0.0
        # Bytes and seconds of recent pieces, both decayed: their quotient is the pace.
        self._recent_bytes = 0.0
        self._recent_s = 0.0
        self._last_event_s = 0.0
        self._last_nbytes = 0

    def begin(self, nbytes: int, now_s: float) -> None:
        """A piece is being asked for."""
        if self.num_outstanding == 0:
            self._last_event_s = self._busy_since_s = now_s
        self.num_outstanding += 1
        self.outstanding_bytes += nbytes

    def end(self, nbytes: int, now_s: float) -> None:
        """The request of `begin` is over, however it went."""
        self.num_outstanding -= 1
        self.outstanding_bytes -= nbytes
        if self.num_outstanding == 0:
            self._busy_s += now_s - self._busy_since_s

    def succeeded(self, nbytes: int, now_s: float) -> None:
        """A whole, good piece came; call before `end`."""
        self._failures_in_row = 0
        self._nbytes += nbytes
        self._num_pieces += 1
        self._recent_bytes = DECAY * self._recent_bytes + nbytes
        self._recent_s = DECAY * self._recent_s + now_s - self._last_event_s
        self._last_event_s = now_s
        self._last_nbytes = nbytes

    def failed(self, reason: str, began_s: float, now_s: float, retry_after_s: float | None = None) -> None:
        """A passing failure of a request that began at `began_s`: wait, then at last give up.

        The wait doubles each time, at random between half and all of it. Requests that were under way when
        another failed tell nothing new: together they count as one failure.
        """
        self._num_failures += 1
        if began_s < self._last_failure_s:
            return
        self._last_failure_s = now_s
        self._failures_in_row += 1
        if self._failures_in_row >= self._max_failures:
            self.closed = f"{reason} ({self._failures_in_row} failures in a row)"
            self.is_exhausted = True
            return
        wait_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (self._failures_in_row - 1))
        wait_s *= self._jitter.uniform(0.5, 1.0)
        self.not_before_s = max(self.not_before_s, now_s + max(wait_s, retry_after_s or 0.0))

    def quarantine(self, reason: str) -> None:
        """Ask this origin for nothing more."""
        self.closed = self.closed or reason

    def sent_bad_piece(self, reason: str, began_s: float, now_s: float, *, is_last: bool) -> None:
        """Bytes differed from their digest: quarantined, unless it `is_last` of all and this was the first time."""
        self._num_corrupt += 1
        if is_last and self._num_corrupt < MAX_CORRUPT:
            self.failed(reason, began_s, now_s)
        else:
            self.is_corrupt = True
            self.quarantine(reason)

    def pace(self, now_s: float) -> float | None:
        """Recent bytes per second; None before the first piece. An overdue answer counts against it."""
        if self._recent_bytes == 0:
            return None
        seconds = max(self._recent_s, 1e-9)
        if self.num_outstanding:
            expected_s = self._last_nbytes * seconds / self._recent_bytes
            seconds += max(0.0, now_s - self._last_event_s - expected_s)
        return self._recent_bytes / seconds

    def report(self) -> OriginReport:
        """What came from here so far."""
        return OriginReport(
            name=self.source.name,
            nbytes=self._nbytes,
            num_pieces=self._num_pieces,
            num_failures=self._num_failures,
            num_corrupt=self._num_corrupt,
            busy_s=self._busy_s,
            closed=self.closed,
        )


def paces(origins: Iterable[Origin], now_s: float) -> dict[Origin, float]:
    """The pace of each; one that has not shown its own yet is taken to be as fast as the fastest."""
    known = {origin: origin.pace(now_s) for origin in origins}
    guess = max((pace for pace in known.values() if pace is not None), default=1.0)
    return {origin: guess if pace is None else pace for origin, pace in known.items()}


def choose(candidates: list[Origin], nbytes: int, left_bytes: int, now_s: float) -> Origin:
    """Whom to ask for a piece of `nbytes`, while `left_bytes` of the download are still to come. Not empty.

    An idle origin is asked first, be it ever so slow, as long as it would be done before the others have brought
    all the rest; else whoever would have it soonest after what it is asked for already. So each origin is asked
    in proportion to its pace, and a slow one never holds up the end.
    """
    pace = paces(candidates, now_s)
    rest_s = left_bytes / sum(pace.values())
    idle = [one for one in candidates if one.num_outstanding == 0 and nbytes / pace[one] <= rest_s]
    return min(idle or candidates, key=lambda one: (one.outstanding_bytes + nbytes) / pace[one])
