# SPDX-License-Identifier: Apache-2.0
"""The primed slots of one engine kind and one number of ranks, and who waits for one. Knows no processes.

`acquire` takes a primed slot at once, or waits for the next to be made; as many are made as callers wait. After
an `acquire` the pool is filled up again, but not at the expense of the request that just took a slot: it lets
`REPLENISH_DELAY_S` pass, again while any slot still binds or computes a first id, at most
`MAX_REPLENISH_DELAYS` times. Callers that wait never wait for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slots_maker import SlotMaker
from serverlessllm.errors import EngineError, ShuttingDownError

REPLENISH_DELAY_S: Final = 0.25
MAX_REPLENISH_DELAYS: Final = 20

_log = logging.getLogger(__name__)


class SizePool:
    """Slots of `world_size` ranks: `acquire`, then `close`. One event loop, no locks.

    `maker` is shared with the pools of other sizes; it is started and stopped elsewhere.
    """

    def __init__(self, maker: SlotMaker, world_size: int, num_wanted: int) -> None:
        self._maker = maker
        self._world_size = world_size
        self._num_wanted = num_wanted
        self._primed: deque[Slot] = deque()
        self._bound: dict[str, Slot] = {}
        self._waiters: deque[asyncio.Future[Slot]] = deque()
        self._births: set[asyncio.Task[None]] = set()
        self._num_births = 0
        self._replenishing: asyncio.Task[None] | None = None
        self._is_full = asyncio.Event()
        self._is_stopping = False

    @property
    def num_primed(self) -> int:
        """Slots that wait."""
        return len(self._primed)

    @property
    def num_priming(self) -> int:
        """Slots that are being made."""
        return self._num_births

    @property
    def num_bound(self) -> int:
        """Slots that somebody has."""
        return len(self._bound)

    def close(self) -> None:
        """Make no more; callers that wait get ShuttingDownError."""
        self._is_stopping = True
        if self._replenishing is not None:
            self._replenishing.cancel()
        while self._waiters:
            self._fail_waiter(ShuttingDownError("the agent is stopping", source="agent"))

    async def closed(self) -> None:
        """Wait until nothing is being made any more, once the maker has stopped."""
        await asyncio.gather(*self._births)

    async def acquire(self) -> Slot:
        """A primed slot, yours until `discard`. Raises EngineError when none can be made, ShuttingDownError."""
        if self._is_stopping:
            raise ShuttingDownError("the agent is stopping", source="agent")
        while self._primed:
            slot = self._primed.popleft()
            if slot.is_alive and self._maker.is_ready:
                return self._take(slot)
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._fill()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_back(waiter.result())
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def primed(self) -> None:
        """Wait until as many slots wait as are configured."""
        await self._is_full.wait()

    def on_ready(self) -> None:
        """See PoolEvents."""
        self._fill()

    def on_failed(self, error: EngineError) -> None:
        """See PoolEvents: nobody waits through restarts of an engine that cannot start."""
        while self._waiters:
            self._fail_waiter(error)

    def on_gone(self, slot_id: str) -> None:
        """See PoolEvents; slots of other sizes are unknown here."""
        if slot_id not in self._bound and all(slot.slot_id != slot_id for slot in self._primed):
            return
        self._bound.pop(slot_id, None)
        self._primed = deque(slot for slot in self._primed if slot.slot_id != slot_id)
        self._replenish_later()

    def _take(self, slot: Slot) -> Slot:
        self._bound[slot.slot_id] = slot
        self._replenish_later()
        return slot

    def _give_back(self, slot: Slot) -> None:
        """The caller left at the very moment it was served; the slot is as good as new."""
        del self._bound[slot.slot_id]
        self._hand_over(slot)

    def _hand_over(self, slot: Slot) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(self._take(slot))
                return
        self._primed.append(slot)
        self._note_fullness()

    def _note_fullness(self) -> None:
        if len(self._primed) >= self._num_wanted:
            self._is_full.set()
        else:
            self._is_full.clear()

    def _fail_waiter(self, error: EngineError | ShuttingDownError) -> None:
        waiter = self._waiters.popleft()
        if not waiter.done():
            waiter.set_exception(type(error)(error.message, source=error.source))

    def _fill(self) -> None:
        """Start as many births as callers wait and, unless held back, as the pool lacks."""
        self._note_fullness()
        if self._is_stopping or not self._maker.is_ready:
            return
        num_spare = 0 if self._replenishing is not None else self._num_wanted
        num_missing = len(self._waiters) + num_spare - len(self._primed) - self._num_births
        for _ in range(num_missing):
            self._num_births += 1
            birth = asyncio.create_task(self._birth())
            self._births.add(birth)
            birth.add_done_callback(self._births.discard)

    async def _birth(self) -> None:
        try:
            slot = await self._maker.make(self._world_size)
        except EngineError as error:
            self._num_births -= 1
            if self._waiters and self._maker.is_ready:
                self._fail_waiter(error)
            elif self._maker.is_ready:
                _log.error("%s", error)
            self._replenish_later()
        else:
            self._num_births -= 1
            self._hand_over(slot)

    def _replenish_later(self) -> None:
        self._note_fullness()
        if self._replenishing is None and not self._is_stopping:
            self._replenishing = asyncio.create_task(self._replenish())

    async def _replenish(self) -> None:
        for _ in range(MAX_REPLENISH_DELAYS):
            await asyncio.sleep(REPLENISH_DELAY_S)
            if not any(slot.is_waking for slot in self._bound.values()):
                break
        self._replenishing = None
        self._fill()
