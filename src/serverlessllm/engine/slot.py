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
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence, Set
from contextlib import aclosing
from pathlib import Path
from typing import Final

import msgspec

from serverlessllm.engine.slot_channel import FrameChannel
from serverlessllm.engine.slot_standby import SlotStandby
from serverlessllm.engine.slot_stream import SlotStream, StreamItem
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
from serverlessllm.wire.standby import BlocksPut, BlocksTaken, PutBlocks, Standing, TakeBlocks
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
PUT_PREFIX: Final = "#put#"
EARLY_FRAME_BYTES: Final = 8 << 20
"""What one `Early` carries, about."""


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
        self._streams: dict[str, SlotStream] = {}
        self._asked: deque[tuple[str, asyncio.Future[BlocksTaken | BlocksPut]]] = deque()
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
        stream = self._open_stream(request.request_id)
        choices = set(range(request.choice, request.choice + num_choices)) - ended
        for choice in sorted(choices):
            before = list(generated[choice]) if generated else request.generated_ids
            stream.send(
                msgspec.structs.replace(
                    request, request_id=stream.wire_id, choice=choice, generated_ids=before
                )
            )
        async with aclosing(stream.events(choices, ended)) as events:
            async for event in events:
                yield event

    def stand_by(self, request: Generate, generated: Mapping[int, Sequence[int]]) -> SlotStandby:
        """Prepare a request that runs elsewhere: choice → its ids so far, of those that have not ended.

        Raises: WorkerLostError.
        """
        if self.lost.is_set():
            raise self._lost_error()
        return SlotStandby(self._open_stream(request.request_id), request, generated, self.hello.stands_by)

    async def take_blocks(self, request_id: str, choice: int, first: int) -> BlocksTaken:
        """Full blocks of a running choice, from the `first`-th on; none of an unknown one. Raises as `generate`."""
        wire_ids = [wire_id for wire_id, stream in self._streams.items() if stream.request_id == request_id]
        if not wire_ids:
            return BlocksTaken(request_id, [], [])
        taken = await self._ask(wire_ids[-1], TakeBlocks(wire_ids[-1], choice, first))
        return taken if isinstance(taken, BlocksTaken) else BlocksTaken(request_id, [], [])

    async def put_blocks(self, digests: list[bytes], blocks: list[bytes]) -> int:
        """Have blocks kept for requests to come; how many were. Raises: WorkerLostError; the worker's own error."""
        wire_id = f"{PUT_PREFIX}{next(self._serial)}"
        put = await self._ask(wire_id, PutBlocks(wire_id, digests, blocks))
        return put.num_stored if isinstance(put, BlocksPut) else 0

    async def _ask(self, wire_id: str, message: TakeBlocks | PutBlocks) -> BlocksTaken | BlocksPut:
        """Send it, and wait for what answers it; answers come in the order of the questions."""
        if self.lost.is_set():
            raise self._lost_error()
        answer: asyncio.Future[BlocksTaken | BlocksPut] = asyncio.get_running_loop().create_future()
        self._asked.append((wire_id, answer))
        self._channel.send(message)
        return await answer

    def _open_stream(self, request_id: str) -> SlotStream:
        """A place for what the worker says of a request, under an id that is unique in the worker's life."""
        wire_id = f"{request_id}#{next(self._serial)}"
        stream = SlotStream(request_id, wire_id, self._channel.send, lambda: self._streams.pop(wire_id, None))
        self._streams[wire_id] = stream
        return stream

    async def load_adapter(self, message: LoadAdapter) -> None:
        """Bind a LoRA adapter, once per slot at a time. Raises: WorkerLostError; the worker's own error."""
        if self.lost.is_set():
            raise self._lost_error()
        name = message.adapter
        stream = SlotStream(name, name, self._channel.send, lambda: self._streams.pop(name, None))
        self._streams[name] = stream
        try:
            stream.send(message)
            item = await stream.items.get()
        finally:
            stream.forget()
        if isinstance(item, SllmError):
            raise item

    async def embed(self, request: Embed) -> Embedded:
        """The vectors of a request's inputs; its cancellation ends it in the worker.

        Raises: WorkerLostError; the worker's own error (ContextLengthError, UnsupportedFieldError, …).
        """
        if self.lost.is_set():
            raise self._lost_error()
        stream = self._open_stream(request.request_id)
        try:
            stream.send(msgspec.structs.replace(request, request_id=stream.wire_id))
            item = await stream.items.get()
        except asyncio.CancelledError:
            stream.send(Cancel(stream.wire_id))
            raise
        finally:
            stream.forget()
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
            case BlocksTaken() | BlocksPut():
                self._answer(message.request_id, message)
            case Standing():
                self._deliver(message.request_id, message)
            case Embedded():
                self._deliver(message.request_id, message)
            case Failed(request_id=str(request_id)):
                if not self._answer(request_id, _error_of(message)):
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

    def _answer(self, wire_id: str, answer: BlocksTaken | BlocksPut | SllmError) -> bool:
        """Give an answer to who asked; whether it was one. Only blocks that are put can fail."""
        if not self._asked or self._asked[0][0] != wire_id:
            return False
        if isinstance(answer, SllmError) and not wire_id.startswith(PUT_PREFIX):
            return False  # the request failed, whose blocks were asked for: that answer comes too
        _, asked = self._asked.popleft()
        if not asked.done():
            if isinstance(answer, SllmError):
                asked.set_exception(answer)
            else:
                asked.set_result(answer)
        return True

    def _deliver(self, wire_id: str, item: StreamItem) -> None:
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
        for _, asked in self._asked:
            if not asked.done():
                asked.set_exception(self._lost_error())
                asked.exception()
        self._asked.clear()

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
