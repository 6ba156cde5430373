# SPDX-License-Identifier: Apache-2.0
"""A replica: one revision under one model's name, bound to a slot. Owns its queue, its slot and its pin.

    state     a request comes          start_draining           unbind   the worker dies
    loading   ReplicaGoneError         nothing to drain         → gone   → another slot is taken at `bind`
    binding   ReplicaGoneError         nothing to drain         → gone   `bind` fails; its caller unbinds
    ready     a seat, or the queue     → draining               → gone   → gone
    draining  ReplicaGoneError         –                        → gone   → gone
    gone      ReplicaGoneError         –                        –        –

Leaving `ready`: who waits in the queue gets ReplicaGoneError, to be placed again. Entering `gone`: who still
runs gets WorkerLostError (from the slot), and the slot is discarded, which ends its hold on the arena's region;
the weights stay in DRAM. Lives on one event loop; knows no HTTP and no text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from serverlessllm.agent.adapters import Adapters
from serverlessllm.agent.queue import NO_DEADLINE_S, RequestQueue
from serverlessllm.agent.room import Holder
from serverlessllm.agent.seats import Seats
from serverlessllm.arena.pin import Pin
from serverlessllm.clock import Clock
from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slots import SlotPool
from serverlessllm.errors import EngineError, ReplicaGoneError
from serverlessllm.text.tokenizer import TextModel
from serverlessllm.types import EngineKind, ReplicaState
from serverlessllm.wire.agent import ReplicaStatus
from serverlessllm.wire.worker import Attach

FIRST_REQUEST_GRACE_S: Final = 2.0
"""A replica counts as in use for this long before its first request: whoever woke it is on the way. Without it,
models that compete for room would unbind each other's replicas before they answered once."""


class ReplicaKey(NamedTuple):
    """What names a replica on its node."""

    model: str
    revision: str


class Replica:
    """See the module. `on_change` is called after each change of state or load, with the replica.

    `nbytes` are its weights, `held_bytes` what they take from the arena. `has_seat`: it counts among
    `max_replicas`. `was_lost`: its worker died unasked. `adapters` end with its worker.
    """

    def __init__(
        self,
        key: ReplicaKey,
        engine: EngineKind,
        attempt: int,
        *,
        slots: SlotPool,
        clock: Clock,
        max_queue_length: int,
        on_change: Callable[[Replica], None],
        adapters: Adapters | None = None,
    ) -> None:
        self.key = key
        self.engine: EngineKind = engine
        self.attempt = attempt
        self.state: ReplicaState = "loading"
        self.nbytes = 0
        self.held_bytes = 0
        self.has_seat = False
        self.was_lost = False
        self.max_model_len_tokens = 0
        self.gone = asyncio.Event()
        self._slots = slots
        self._on_change = on_change
        self._seats = Seats(
            RequestQueue(max_queue_length),
            clock,
            refusal=self.gone_error,
            on_change=lambda: on_change(self),
        )
        self._adapters = adapters
        self._slot: Slot | None = None
        self._pin: Pin | None = None
        self._text: TextModel | None = None
        self._watch: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._unbinding: asyncio.Task[None] | None = None

    @property
    def text(self) -> TextModel:
        """The revision's tokenizer and template. Raises ReplicaGoneError unless it is ready."""
        if self._text is None or self.state != "ready":
            raise self.gone_error()
        return self._text

    @property
    def dtype(self) -> str | None:
        """What its slot computes in; None before it has one."""
        return None if self._slot is None else self._slot.hello.dtype

    @property
    def is_idle(self) -> bool:
        """Whether it is ready and nobody uses it."""
        return self.state == "ready" and self._seats.is_idle

    async def take_slot(self) -> None:
        """Acquire a primed worker, which this replica owns from then on. Raises as `SlotPool.acquire`."""
        self._slot = await self._slots.acquire(self.engine)

    def take_pin(self, pin: Pin) -> None:
        """Own this process's hold on the region; dropped once the worker has its own."""
        self._pin = pin

    async def bind(self, attach: Attach, text: TextModel) -> None:
        """loading → binding → ready. Raises as `Slot.attach` and `SlotPool.acquire`; the caller then unbinds."""
        while self._slot is None or self._slot.lost.is_set():  # it may have died while the bytes were read
            if self._slot is not None:
                await self._slots.discard(self._slot)
            await self.take_slot()
        self._move("binding")
        attached = await self._slot.attach(attach, None if self._pin is None else self._pin.fd)
        self._drop_pin()
        self.max_model_len_tokens = attached.max_model_len_tokens
        self._text = text
        self._watch = asyncio.create_task(self._watch_slot(self._slot))
        self._seats.open(attach.max_num_seqs)
        self._move("ready")

    @asynccontextmanager
    async def turn(self, priority: int, deadline_s: float = NO_DEADLINE_S) -> AsyncIterator[Slot]:
        """Wait for a seat and hold it for the block; the slot is there to submit one request to.

        `deadline_s` is on the monotonic clock. Raises: ReplicaGoneError (not ready, or unbound while waiting),
        QueueFullError, HoldDeadlineError.
        """
        async with self._seats.seat(priority, deadline_s):
            if self._slot is None or self._slot.lost.is_set():
                raise self.gone_error()  # the seat of a request that died with the worker
            yield self._slot

    async def load_adapter(self, slot: Slot, revision: str, directory: Path) -> None:
        """Have a LoRA adapter bound to `slot`, which a turn gave. Raises as `Adapters.ready`."""
        if self._adapters is None:
            raise EngineError(f"the replica of model {self.key.model} takes no adapters", source="agent")
        await self._adapters.ready(slot, revision, directory)

    def start_draining(self) -> None:
        """ready → draining, in one step without a wait: no request slips in between a look and this act."""
        if self.state == "ready":
            self._move("draining")
            self._seats.close()
            self._draining = asyncio.create_task(self._drain())

    async def drain(self) -> None:
        """Let what runs finish, then unbind; a caller's cancellation does not stop it.

        One that is not ready yet has nothing to finish.
        """
        self.start_draining()
        if self._draining is None:
            await self.unbind()
        else:
            await asyncio.shield(self._draining)

    async def unbind(self) -> None:
        """→ gone, now. Returns when the worker has ended. Idempotent; a caller's cancellation does not stop it."""
        if self._unbinding is None:
            self._unbinding = asyncio.create_task(self._unbind())
        await asyncio.shield(self._unbinding)

    def as_holder(self) -> Holder:
        """As `room.py` sees it: what it holds, and for how long nobody has used it."""
        idle_s = self._seats.idle_s
        is_spare = self.is_idle and (self._seats.had_request or idle_s >= FIRST_REQUEST_GRACE_S)
        return Holder(self.key.model, self.key.revision, self.held_bytes, idle_s if is_spare else None)

    def status(self) -> ReplicaStatus:
        """As the wire says it."""
        return ReplicaStatus(
            model=self.key.model,
            revision=self.key.revision,
            attempt=self.attempt,
            state=self.state,
            engine=self.engine,
            device_set="cpu",
            pid=None if self._slot is None else self._slot.pid,
            num_running=self._seats.num_taken,
            num_queued=self._seats.num_waiting,
            idle_s=self._seats.idle_s if self.is_idle else 0.0,
        )

    def gone_error(self) -> ReplicaGoneError:
        """What a request gets that this replica does not take."""
        return ReplicaGoneError(
            f"the replica of model {self.key.model} takes no requests here; place the request again",
            source="agent",
        )

    async def _watch_slot(self, slot: Slot) -> None:
        await slot.lost.wait()
        self.was_lost = True
        await self.unbind()

    async def _drain(self) -> None:
        await self._seats.empty.wait()
        await self.unbind()

    async def _unbind(self) -> None:
        if self._watch is not None and not self.was_lost:
            self._watch.cancel()
        self._move("gone")
        self._seats.close()
        self._seats.empty.set()
        try:
            if self._slot is not None:
                await self._slots.discard(self._slot)
        finally:
            self._slot = None
            self._drop_pin()
            if self._adapters is not None:
                self._adapters.close()
            self.has_seat = False
            self.gone.set()
            self._on_change(self)

    def _drop_pin(self) -> None:
        if self._pin is not None:
            self._pin.close()
            self._pin = None

    def _move(self, state: ReplicaState) -> None:
        self.state = state
        self._on_change(self)
