# SPDX-License-Identifier: Apache-2.0
"""A slot: one worker process as the agent sees it. Speaks wire/worker.py; knows ids, never text.

    waiting   attach    → bound, or the error that the worker gave; then the worker ends
    bound     generate  → any number at once, each a stream of ids
    lost      anything  → WorkerLostError

A slot is lost when its connection ends, whoever ended it; every id that the worker sent before arrives first.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence, Set
from pathlib import Path
from typing import Final

import msgspec

from serverlessllm.engine.slot_channel import FrameChannel
from serverlessllm.engine.worker_socket import connect_in
from serverlessllm.errors import (
    EngineError,
    RequestError,
    SllmError,
    WireError,
    WorkerLostError,
    error_classes,
)
from serverlessllm.types import EngineKind
from serverlessllm.wire import WIRE_VERSION
from serverlessllm.wire.worker import (
    AdapterLoaded,
    Arrived,
    Attach,
    Attached,
    Blocks,
    Cancel,
    Early,
    Embed,
    Embedded,
    Failed,
    FromWorker,
    Generate,
    Hello,
    LoadAdapter,
    Spellings,
    TokenEvent,
    Tokens,
    Wanted,
)

PRIME_TIMEOUT_S: Final = 60.0
EARLY_FRAME_BYTES: Final = 8 << 20
"""What one `Early` carries, about."""


class _Stream:
    """Ids of one request, all its choices, on their way to its reader; bounded by the request's `max_tokens`."""

    __slots__ = ("has_begun", "items")

    def __init__(self) -> None:
        self.items: asyncio.Queue[TokenEvent | Embedded | AdapterLoaded | SllmError] = asyncio.Queue()
        self.has_begun = False


class Slot:
    """One worker, from its greeting to its end. `lost` is set when it can answer no more.

    `on_wanted` hears which (offset, nbytes) of a region that is still arriving the worker would like first.
    `on_blocks` is called with what it tells of cached blocks, before the ids of the same step are delivered.
    """

    hello: Hello

    def __init__(self, slot_id: str, kind: EngineKind, pid: int, directory: Path) -> None:
        """Connect to the worker that listens in `directory`; `greet` makes the slot usable."""
        self.slot_id = slot_id
        self.kind = kind
        self.pid = pid
        self.lost = asyncio.Event()
        self.on_blocks: Callable[[Blocks], None] = _ignore
        self._greeting: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._attaching: asyncio.Future[Attached] | None = None
        self.on_wanted: Callable[[list[tuple[int, int]]], None] | None = None
        self._streams: dict[str, _Stream] = {}
        self._serial = itertools.count()
        self._reason = ""
        self._has_spellings = False
        try:
            connection = connect_in(directory)
        except OSError as error:
            raise WorkerLostError(f"cannot connect to worker {slot_id}: {error}", source="agent") from error
        self._channel = FrameChannel(connection, on_message=self._on_message, on_closed=self._on_closed)

    async def greet(self) -> None:
        """Wait until the worker is primed. Raises WorkerLostError, or EngineError for a wrong one."""
        try:
            async with asyncio.timeout(PRIME_TIMEOUT_S):
                self.hello = await self._greeting
        except TimeoutError as error:
            self.close()
            raise EngineError(
                f"worker {self.slot_id} was not primed within {PRIME_TIMEOUT_S:.0f} s"
            ) from error
        if (self.hello.wire_version, self.hello.pid) != (WIRE_VERSION, self.pid):
            self.close()
            raise EngineError(
                f"worker {self.slot_id} speaks version {self.hello.wire_version} as pid {self.hello.pid}, "
                f"not version {WIRE_VERSION} as pid {self.pid}"
            )

    @property
    def is_alive(self) -> bool:
        """Whether the worker was still connected at this very moment; `lost` follows when it was not."""
        return not self._channel.has_ended

    @property
    def num_running(self) -> int:
        """Requests in flight."""
        return len(self._streams)

    @property
    def is_waking(self) -> bool:
        """Whether someone waits for this slot to bind or for the first id of an answer."""
        is_binding = self._attaching is not None and not self._attaching.done()
        return is_binding or any(not stream.has_begun for stream in self._streams.values())

    async def attach(self, attach: Attach, pin_fd: int | None) -> Attached:
        """Bind a revision, once. The worker gets a copy of `pin_fd` and holds it for life.

        Raises: WorkerLostError; the worker's own error (EngineError, UnsupportedCheckpointError, …), after
        which the slot is lost.
        """
        if self.lost.is_set():
            raise self._lost_error()
        if self._attaching is not None:
            raise EngineError(f"worker {self.slot_id} already has a model", source="agent")
        self._attaching = asyncio.get_running_loop().create_future()
        self._channel.send(attach, descriptor=pin_fd)
        return await self._attaching

    def arrived(self, num_shards: int) -> None:
        """Tell a bound worker that the first `num_shards` of its attach are whole."""
        self._channel.send(Arrived(num_shards))

    def bring(self, parts: Sequence[tuple[int, bytes]]) -> None:
        """Give a bound worker (offset in the region, bytes) that it wanted."""
        batch: list[tuple[int, bytes]] = []
        for part in parts:
            batch.append(part)
            if sum(len(data) for _, data in batch) >= EARLY_FRAME_BYTES:
                self._channel.send(Early(batch))
                batch = []
        if batch:
            self._channel.send(Early(batch))

    def teach(self, spellings: Spellings) -> None:
        """Tell the worker how its model's ids are spelled, for requests with a grammar; once is enough."""
        if not self._has_spellings and not self.lost.is_set():
            self._has_spellings = True
            self._channel.send(spellings)

    async def generate(
        self,
        request: Generate,
        num_choices: int = 1,
        ended: Set[int] = frozenset(),
        generated: Sequence[Sequence[int]] = (),
    ) -> AsyncGenerator[TokenEvent, None]:
        """Stream the ids of `num_choices` choices, from the request's own on; each one's last event carries `finish`.

        Choices that are in `ended` now are left out; those that the reader puts there later are cancelled, and some
        of their ids may still come. `generated` are the ids that each choice goes on from, where any does. Closing
        the iterator early (`contextlib.aclosing`) cancels them all in the worker.
        Raises: WorkerLostError; the worker's own error (ContextLengthError, InvalidRequestError, …).
        """
        if self.lost.is_set():
            raise self._lost_error()
        # Unique in the worker's life: events of a cancelled request never reach a later one of that id.
        wire_id = f"{request.request_id}#{next(self._serial)}"
        stream = self._streams[wire_id] = _Stream()
        unfinished = set(range(request.choice, request.choice + num_choices)) - ended
        try:
            for choice in sorted(unfinished):
                before = list(generated[choice]) if generated else request.generated_ids
                self._channel.send(
                    msgspec.structs.replace(request, request_id=wire_id, choice=choice, generated_ids=before)
                )
            while unfinished:
                item = await stream.items.get()
                if isinstance(item, SllmError):
                    if num_choices == 1:
                        unfinished.clear()
                    raise item
                if not isinstance(item, TokenEvent):
                    raise WireError("no ids for a request that asked for ids", source="engine")
                if item.finish is not None:
                    unfinished.discard(item.choice)
                yield msgspec.structs.replace(item, request_id=request.request_id)
                if not ended.isdisjoint(unfinished):
                    for choice in unfinished & ended:
                        self._channel.send(Cancel(wire_id, choice))
                    unfinished -= ended
        finally:
            del self._streams[wire_id]
            if unfinished:
                self._channel.send(Cancel(wire_id))

    async def load_adapter(self, message: LoadAdapter) -> None:
        """Bind a LoRA adapter, once per slot at a time. Raises: WorkerLostError; the worker's own error."""
        if self.lost.is_set():
            raise self._lost_error()
        stream = self._streams[message.adapter] = _Stream()
        try:
            self._channel.send(message)
            item = await stream.items.get()
        finally:
            del self._streams[message.adapter]
        if isinstance(item, SllmError):
            raise item

    async def embed(self, request: Embed) -> Embedded:
        """The vectors of a request's inputs; its cancellation ends it in the worker.

        Raises: WorkerLostError; the worker's own error (ContextLengthError, UnsupportedFieldError, …).
        """
        if self.lost.is_set():
            raise self._lost_error()
        wire_id = f"{request.request_id}#{next(self._serial)}"
        stream = self._streams[wire_id] = _Stream()
        try:
            self._channel.send(msgspec.structs.replace(request, request_id=wire_id))
            item = await stream.items.get()
        except asyncio.CancelledError:
            self._channel.send(Cancel(wire_id))
            raise
        finally:
            del self._streams[wire_id]
        if isinstance(item, SllmError):
            raise item
        if not isinstance(item, Embedded):
            raise WireError("no vectors for a request that asked for vectors", source="engine")
        return item

    def close(self) -> None:
        """Hang up; the worker ends by itself. Requests in flight fail with WorkerLostError. Idempotent."""
        self._channel.close()

    def _on_message(self, message: FromWorker) -> None:
        match message:
            case Tokens(events=events):
                for event in events:
                    self._deliver(event.request_id, event)
            case Blocks():
                self.on_blocks(message)
            case AdapterLoaded():
                self._deliver(message.adapter, message)
            case Embedded():
                self._deliver(message.request_id, message)
            case Failed(request_id=str(request_id)):
                self._deliver(request_id, _error_of(message))
            case Failed() if self._attaching is not None and not self._attaching.done():
                self._attaching.set_exception(_error_of(message))
            case Attached() if self._attaching is not None and not self._attaching.done():
                self._attaching.set_result(message)
            case Attached() | Failed() if self._attaching is not None and self._attaching.cancelled():
                pass  # nobody waits for the answer any more
            case Wanted(ranges=ranges):
                if self.on_wanted is not None:
                    self.on_wanted(ranges)
            case Hello() if not self._greeting.done():
                self._greeting.set_result(message)
            case _:
                raise WireError(f"{type(message).__name__} out of place", source="engine")

    def _deliver(self, wire_id: str, item: TokenEvent | Embedded | AdapterLoaded | SllmError) -> None:
        stream = self._streams.get(wire_id)
        if stream is not None:  # else its reader left, and the cancel is on its way
            stream.has_begun = True
            stream.items.put_nowait(item)

    def _on_closed(self, reason: str) -> None:
        self._reason = reason
        self.lost.set()
        for waiting in (self._greeting, self._attaching):
            if waiting is not None and not waiting.done():
                waiting.set_exception(self._lost_error())
                waiting.exception()  # counts as seen: the waiter may have left
        for stream in self._streams.values():
            stream.items.put_nowait(self._lost_error())

    def _lost_error(self) -> WorkerLostError:
        return WorkerLostError(
            f"the {self.kind} worker {self.slot_id} (pid {self.pid}) is gone: {self._reason}; "
            "the next request gets a fresh one",
            source="engine",
        )


def _ignore(blocks: Blocks) -> None:
    """Nobody asks for the blocks of this slot."""


def _error_of(failed: Failed) -> SllmError:
    """The typed error that the worker meant; an unknown code becomes EngineError."""
    cls = error_classes().get(failed.code, EngineError)
    if issubclass(cls, RequestError):
        return cls(failed.message, param=failed.param)
    return cls(failed.message, param=failed.param, source="engine")
