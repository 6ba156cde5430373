# SPDX-License-Identifier: Apache-2.0
"""A replica: one revision under one model's name, bound to a slot. Owns its queue, its slot and its pin.

    state     a request comes          start_draining           unbind   the worker dies
    loading   ReplicaGoneError         nothing to drain         → gone   → another slot is taken at `bind`
    binding   ReplicaGoneError         nothing to drain         → gone   `bind` fails; its caller unbinds
    ready     a seat, or the queue     → draining               → gone   → gone
    draining  ReplicaGoneError         –                        → gone   → gone
    gone      ReplicaGoneError         –                        –        –

It may become ready while its bytes still arrive (`is_loading`). When the last request that waits for them is
cancelled, or they do not come, it is unbound, which ends the load.

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
from serverlessllm.agent.kv_chunks import KvChunks
from serverlessllm.agent.kv_request import KvRequest
from serverlessllm.agent.queue import NO_DEADLINE_S, RequestQueue
from serverlessllm.agent.room import Holder
from serverlessllm.agent.seats import Seats
from serverlessllm.agent.weight_stream import WeightStream
from serverlessllm.arena.pin import Pin
from serverlessllm.clock import Clock
from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slots import SlotPool
from serverlessllm.errors import EngineError, ReplicaGoneError, SllmError, WorkerLostError
from serverlessllm.text.tokenizer import AlignedPrompt, TextModel
from serverlessllm.types import EngineKind, ReplicaState
from serverlessllm.wire.agent import ReplicaStatus
from serverlessllm.wire.openai import ChatRequest, CompletionRequest
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

    `on_kv_change` is called when `kv`, the prompt chunks that its engine has cached, changed.
    `nbytes` are its weights, `held_bytes` what they take from the arena. `has_seat`: it counts among
    `max_replicas`. `was_lost`: its worker died unasked. `adapters` end with its worker. `num_ranks`: workers that
    compute it together.
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
        on_kv_change: Callable[[Replica], None],
        adapters: Adapters | None = None,
        num_ranks: int = 1,
    ) -> None:
        self.key = key
        self.num_ranks = num_ranks
        self.engine: EngineKind = engine
        self.attempt = attempt
        self.state: ReplicaState = "loading"
        self.nbytes = 0
        self.held_bytes = 0
        self.has_seat = False
        self.was_lost = False
        self.max_model_len_tokens = 0
        self.attach_ms = 0.0
        """What its worker took to bind."""
        self.kv = KvChunks(lambda: on_kv_change(self))
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
        self._block_tokens = 0
        self._watch: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._load_error: SllmError | None = None
        self.stream: WeightStream | None = None
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
    def pid(self) -> int | None:
        """Of its worker; None before it has one."""
        return None if self._slot is None else self._slot.pid

    @property
    def slot(self) -> Slot | None:
        """Its worker, while it has one."""
        return self._slot

    @property
    def block_tokens(self) -> int:
        """Ids per block of its engine's cache; 0 where the engine does not tell."""
        return self._block_tokens

    @property
    def can_stream(self) -> bool:
        """Whether its slot takes weights that are still arriving."""
        return self._slot is not None and self._slot.hello.streams

    @property
    def is_loading(self) -> bool:
        """Whether it was bound before its bytes were whole, and they still arrive."""
        return self._loading is not None and not self._loading.done()

    @property
    def is_idle(self) -> bool:
        """Whether it is ready and whole, and nobody uses it."""
        return self.state == "ready" and self._seats.is_idle and not self.is_loading

    async def take_slot(self) -> None:
        """Acquire a primed worker, which this replica owns from then on. Raises as `SlotPool.acquire`."""
        self._slot = await self._slots.acquire(self.engine, self.num_ranks)

    def take_pin(self, pin: Pin) -> None:
        """Own this process's hold on the region; dropped once the worker has its own."""
        self._drop_pin()
        self._pin = pin

    def keep_loading(self, rest: asyncio.Task[None]) -> None:
        """Own what is left of the load; it ends when the replica is unbound. Call it in the step after `bind`."""
        self._loading = rest
        rest.add_done_callback(lambda _: self._on_change(self))
        self._on_change(self)

    def fail_load(self, error: SllmError) -> None:
        """The rest of its bytes will not come: unbind it; who uses it has to be placed again."""
        self._load_error = error
        self._begin_unbind()

    async def bind(self, attach: Attach, text: TextModel, stream: WeightStream | None = None) -> None:
        """loading → binding → ready. `stream` tells the worker of bytes that still arrive.

        Raises as `Slot.attach` and `SlotPool.acquire`; the caller then unbinds.
        """
        while self._slot is None or self._slot.lost.is_set():  # it may have died while the bytes were read
            if self._slot is not None:
                await self._slots.discard(self._slot)
            await self.take_slot()
        self._move("binding")
        self._slot.on_blocks = lambda blocks: self.kv.note_blocks(blocks.stored, blocks.removed)
        attached = await self._slot.attach(attach, None if self._pin is None else self._pin.fd)
        self._drop_pin()
        self.attach_ms = attached.map_ms + attached.bind_ms
        self.max_model_len_tokens = attached.max_model_len_tokens
        self._block_tokens = attached.block_tokens
        self._text = text
        self.stream = stream
        if stream is not None:
            stream.begin(self._slot, attach.num_ready)
        self._watch = asyncio.create_task(self._watch_slot(self._slot))
        self._seats.open(attach.max_num_seqs)
        self._move("ready")

    @asynccontextmanager
    async def turn(self, priority: int, deadline_s: float = NO_DEADLINE_S) -> AsyncIterator[Slot]:
        """Wait for a seat and hold it for the block; the slot is there to submit one request to.

        `deadline_s` is on the monotonic clock. Raises: ReplicaGoneError (not ready, or unbound while waiting),
        QueueFullError, HoldDeadlineError.
        """
        try:
            async with self._seats.seat(priority, deadline_s):
                if self._slot is None or self._slot.lost.is_set():
                    raise self.gone_error()  # the seat of a request that died with the worker
                yield self._slot
        except WorkerLostError as error:
            if self._load_error is None:
                raise
            raise self.gone_error() from error  # it died of its load
        except asyncio.CancelledError:
            self._give_up_load()
            raise

    def _give_up_load(self) -> None:
        """Nobody waits for the bytes any more."""
        is_arriving = self.stream is not None and not self.stream.is_whole
        if self.is_loading and is_arriving and self._seats.is_idle:
            self.start_draining()

    def follow_cache(
        self, salt: str, request: ChatRequest | CompletionRequest, prompt: AlignedPrompt
    ) -> KvRequest | None:
        """What tells of the request's cached chunks; None where the engine does not tell of its blocks."""
        if not self._block_tokens:
            return None
        return KvRequest(self.kv, self._block_tokens, salt, request, prompt)

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
        await asyncio.shield(self._begin_unbind())

    def _begin_unbind(self) -> asyncio.Task[None]:
        if self._unbinding is None:
            self._unbinding = asyncio.create_task(self._unbind())
        return self._unbinding

    def as_holder(self, loss_s: float = 0.0) -> Holder:
        """As `room.py` sees it: what it holds, for how long nobody has used it, and what its going would cost."""
        idle_s = self._seats.idle_s
        is_spare = self.is_idle and (self._seats.had_request or idle_s >= FIRST_REQUEST_GRACE_S)
        return Holder(
            self.key.model, self.key.revision, self.held_bytes, idle_s if is_spare else None, loss_s
        )

    def status(self) -> ReplicaStatus:
        """As the wire says it."""
        return ReplicaStatus(
            model=self.key.model,
            revision=self.key.revision,
            attempt=self.attempt,
            state=self.state,
            engine=self.engine,
            device_set="cpu" if self.num_ranks == 1 else f"cpu x{self.num_ranks}",
            pid=self.pid,
            num_running=self._seats.num_taken,
            num_queued=self._seats.num_waiting,
            idle_s=self._seats.idle_s if self.is_idle else 0.0,
            is_loading=self.is_loading,
            num_seats=self._seats.num_together,
            request_s=round(self._seats.mean_request_s, 4),
        )

    def gone_error(self) -> ReplicaGoneError:
        """What a request gets that this replica does not take."""
        reason = (
            "takes no requests here" if self._load_error is None else f"is lost: {self._load_error.message}"
        )
        return ReplicaGoneError(
            f"the replica of model {self.key.model} {reason}; place the request again", source="agent"
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
            if self.stream is not None:
                self.stream.close()
            if self._slot is not None:
                await self._slots.discard(self._slot)
            await self._end_load()
        finally:
            self._slot = None
            self._drop_pin()
            if self._adapters is not None:
                self._adapters.close()
            self.has_seat = False
            self.gone.set()
            self._on_change(self)

    async def _end_load(self) -> None:
        """After the worker's end, so that the region is free at once."""
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait({self._loading})

    def _drop_pin(self) -> None:
        if self._pin is not None:
            self._pin.close()
            self._pin = None

    def _move(self, state: ReplicaState) -> None:
        self.state = state
        self._on_change(self)
