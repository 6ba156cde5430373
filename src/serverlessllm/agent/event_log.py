# SPDX-License-Identifier: Apache-2.0
"""The agent's one sequenced stream of what changes, for `GET /events?from=SEQ`: snapshot, deltas, heartbeats.

A ring of encoded events; any number of followers read it at their own pace, and one who falls out of the ring gets
a new snapshot. Knows the grammar of `wire/events.py`, no HTTP and not what the events mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from itertools import islice
from typing import Final

import msgspec

from serverlessllm.clock import Clock
from serverlessllm.wire import sse
from serverlessllm.wire.events import HEARTBEAT_S, AgentEvent, Heartbeat, Snapshot

MAX_EVENTS: Final = 4096


class EventLog:
    """Numbers events from the microsecond of its start on.

    So a SEQ from before a restart is never taken for one of ours: it is older than our first, and the follower gets
    a snapshot.
    """

    def __init__(self, boot_id: str, clock: Clock, *, max_events: int = MAX_EVENTS) -> None:
        self._heartbeat = msgspec.json.encode(Heartbeat(boot_id))
        self._ring: deque[bytes] = deque(maxlen=max_events)
        self._changed = asyncio.Event()
        self._is_closed = False
        self.last_seq = int(clock.wall_s() * 1e6)

    def publish(self, event: AgentEvent) -> int:
        """Append an event and wake the followers; returns its SEQ."""
        self.last_seq += 1
        self._ring.append(sse.event(self.last_seq, msgspec.json.encode(event)))
        self._wake()
        return self.last_seq

    def close(self) -> None:
        """End every follower's stream."""
        self._is_closed = True
        self._wake()

    async def follow(
        self, from_seq: int | None, snapshot: Callable[[], Snapshot], *, heartbeat_s: float = HEARTBEAT_S
    ) -> AsyncGenerator[bytes, None]:
        """What came after `from_seq`, as bytes of whole events; a snapshot first where the ring does not reach back.

        A snapshot and a heartbeat carry the SEQ of the last event before them. Ends when the log is closed.
        """
        seq = -1 if from_seq is None else from_seq
        while not self._is_closed:
            changed = self._changed
            if not self._reaches(seq):
                seq = self.last_seq
                yield sse.event(seq, msgspec.json.encode(snapshot()))
            elif seq < self.last_seq:
                num_new = self.last_seq - seq
                seq = self.last_seq
                yield b"".join(islice(self._ring, len(self._ring) - num_new, None))
            else:
                try:
                    await asyncio.wait_for(changed.wait(), heartbeat_s)
                except TimeoutError:
                    yield sse.event(seq, self._heartbeat)

    def _reaches(self, seq: int) -> bool:
        """Whether all that followed `seq` is still in the ring."""
        return self.last_seq - len(self._ring) <= seq <= self.last_seq

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
