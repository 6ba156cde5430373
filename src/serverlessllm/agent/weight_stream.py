# SPDX-License-Identifier: Apache-2.0
"""Between a load and the worker that computes beside it: shards are announced, wanted bytes are fetched early.

    loader ─ shards are whole ─► this ─ Arrived ─► worker
    loader ◄── read early ────── this ◄─ Wanted ── worker

Knows no requests. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import logging

from serverlessllm.arena.pin import Pin
from serverlessllm.clock import Clock
from serverlessllm.engine.slot import Slot
from serverlessllm.errors import SllmError
from serverlessllm.loader.incoming import Incoming
from serverlessllm.types import StartKind
from serverlessllm.wire.agent import StreamedLoad

_log = logging.getLogger(__name__)


class WeightStream:
    """One load for one replica: `begin` when its worker is bound, then `note` until `is_whole`."""

    def __init__(self, incoming: Incoming, began_s: float, clock: Clock) -> None:
        """`began_s`: when bytes began to move, on the monotonic clock."""
        self.incoming = incoming
        self._clock = clock
        self._began_s = began_s
        self._ended_s: float | None = None
        self._slot: Slot | None = None
        self._num_told = 0
        self._errands: set[asyncio.Task[None]] = set()

    @property
    def is_whole(self) -> bool:
        """Whether every shard is there."""
        return self.incoming.num_ready >= len(self.incoming.shards)

    def pin(self) -> Pin:
        """Hold the region for the worker. Raises: NotFoundError when the load has failed meanwhile."""
        return self.incoming.pin()

    def begin(self, slot: Slot, num_known: int) -> None:
        """The worker is bound, and knows of the first `num_known` shards."""
        self._slot, self._num_told = slot, num_known
        slot.on_wanted = self._on_wanted
        self.note()

    def finish(self) -> None:
        """The load has succeeded."""
        self.incoming.num_ready = len(self.incoming.shards)
        self.note()

    def note(self) -> None:
        """The load went on."""
        if self.is_whole and self._ended_s is None:
            self._ended_s = self._clock.monotonic_s()
        if self._slot is not None and self.incoming.num_ready > self._num_told:
            self._num_told = self.incoming.num_ready
            self._slot.arrived(self._num_told)

    def close(self) -> None:
        """Say nothing more. Idempotent."""
        for errand in self._errands:
            errand.cancel()
        if self._slot is not None:
            self._slot.on_wanted = None
            self._slot = None

    def summary(self) -> StreamedLoad:
        """The load so far, as a request's timing tells it."""
        ended_s = self._ended_s if self._ended_s is not None else self._clock.monotonic_s()
        load_s = max(ended_s - self._began_s, 1e-9)
        tier, nbytes = self.incoming.tier, self.incoming.total_bytes
        start: StartKind = "cold" if tier == "remote" else "warm"
        return StreamedLoad(start, tier, nbytes, load_s * 1e3, nbytes / load_s / 1e9)

    def _on_wanted(self, ranges: list[tuple[int, int]]) -> None:
        errand = asyncio.get_running_loop().create_task(self._fetch(ranges))
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)

    async def _fetch(self, ranges: list[tuple[int, int]]) -> None:
        try:
            found = await self.incoming.read_early(ranges)
        except (SllmError, OSError) as error:
            _log.info("embedding rows could not be read early, and are waited for: %s", error)
            return
        if self._slot is not None:
            offsets = [offset for offset, _ in ranges]
            self._slot.bring(list(zip(offsets, found, strict=True)))
