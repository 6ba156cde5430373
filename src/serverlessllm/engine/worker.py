# SPDX-License-Identifier: Apache-2.0
"""The worker: one thread that moves messages between one agent and one engine. Knows ids, never text.

    state     message     → does                                        → next
    primed    Attach      maps the region, binds the engine: Attached   → attached
                          the same fails: Failed(None)                  → ended
    attached  Generate    queues it, or Failed(request_id)              → attached
              Spellings   hands it to an engine that knows grammars     → attached
              LoadAdapter maps and binds it: AdapterLoaded, or Failed   → attached
              Embed       queues it, or Failed(request_id)              → attached
              Cancel      forgets it                                    → attached
              Arrived     goes on with the shards that are whole now    → attached
              Early       has the bytes that it wanted                  → attached
              Extend      hands ids to a request that stands by         → attached
              TakeBlocks     gives blocks of a running request             → attached
              PutBlocks      keeps blocks for requests to come             → attached
    any       agent gone, or a message out of place                     → ended

A worker takes one model in its life: a failed attach may leave an engine half bound, so it ends the worker,
and the pool replaces it. While weights arrive, a step is as short as one block of the model for one prompt, so that
messages are taken in between. Each engine step that gives ids is one `Tokens` frame. An unexpected exception leaves
`serve`; the process's entry point logs it and exits with `EXIT_CRASH`: the agent sees the connection close.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Protocol, runtime_checkable

from serverlessllm.engine.base import (
    AdapterEngine,
    BlockCopier,
    BlockReporter,
    EmbeddingEngine,
    Engine,
    FailureReporter,
    GrammarEngine,
    StandbyEngine,
    StreamingEngine,
    Weights,
)
from serverlessllm.engine.binding import bind, map_region
from serverlessllm.engine.worker_connection import AgentConnection, AgentGoneError
from serverlessllm.errors import SllmError, UnsupportedFieldError, WireError
from serverlessllm.wire import WIRE_VERSION
from serverlessllm.wire.standby import BlocksPut, BlocksTaken, Extend, PutBlocks, TakeBlocks
from serverlessllm.wire.worker import (
    AdapterLoaded,
    Arrived,
    Attach,
    Blocks,
    Cancel,
    Early,
    Embed,
    Failed,
    Generate,
    Hello,
    LoadAdapter,
    Spellings,
    Tokens,
    ToWorker,
    Wanted,
)


@runtime_checkable
class TimedEngine(Protocol):
    """An engine that waits for time rather than computes; the worker then sleeps instead of spinning."""

    @property
    def due_in_s(self) -> float:
        """Seconds until `step` has something to return."""


@runtime_checkable
class ServerEngine(Protocol):
    """An engine that computes in another process: it tells when ids have come."""

    @property
    def ready_fd(self) -> int | None:
        """Readable when `step` has something; None without a model."""


def serve(listener: socket.socket, engine: Engine) -> None:
    """Prime the engine, take one agent from `listener`, and work for it until it hangs up.

    Raises: WireError when the agent breaks the protocol; whatever the engine lets escape.
    """
    started_s = time.perf_counter()
    engine.prime()
    primed_ms = (time.perf_counter() - started_s) * 1e3
    connection = AgentConnection.accept(listener)
    listener.close()
    try:
        streams = isinstance(engine, StreamingEngine) and engine.can_stream
        connection.send(
            Hello(
                WIRE_VERSION,
                os.getpid(),
                engine.name,
                engine.dtype,
                primed_ms,
                streams,
                stands_by=isinstance(engine, StandbyEngine),
                copies_blocks=isinstance(engine, BlockCopier),
            )
        )
        Worker(connection, engine).run()
    except AgentGoneError:
        pass
    finally:
        connection.close()


class Worker:
    """The loop of one worker, from `Attach` to the agent's leaving."""

    def __init__(self, connection: AgentConnection, engine: Engine) -> None:
        self._connection = connection
        self._engine = engine
        self._streaming = engine if isinstance(engine, StreamingEngine) else None
        self._timed = engine if isinstance(engine, TimedEngine) else None
        self._server = engine if isinstance(engine, ServerEngine) else None
        self._blocks = engine if isinstance(engine, BlockReporter) else None
        self._embedding = engine if isinstance(engine, EmbeddingEngine) else None
        self._failing = engine if isinstance(engine, FailureReporter) else None
        self._standby = engine if isinstance(engine, StandbyEngine) else None
        self._is_attached = False
        self._is_running = True
        self._region_fd: int | None = None  # never closed: its lock on the arena is the region's pin

    def run(self) -> None:
        """Serve until an attach fails. Raises AgentGoneError when the agent leaves."""
        while self._is_running:
            wake_fd = None if self._server is None else self._server.ready_fd
            for message, descriptor in self._connection.receive(self._patience_s(), wake_fd):
                self._dispatch(message, descriptor)
            self._ask_for_wanted()
            if self._engine.has_work:
                self._step()
            self._tell_standing()

    def _step(self) -> None:
        events = self._engine.step()
        self._tell_blocks()
        if events:
            self._connection.send(Tokens(events))
        if self._embedding is not None:
            for embedded in self._embedding.take_embedded():
                self._connection.send(embedded)
        if self._failing is not None:
            for failed in self._failing.take_failures():
                self._connection.send(failed)

    def _tell_blocks(self) -> None:
        """Before the ids of the step: who has the last id knows all blocks of the answer."""
        if self._blocks is not None:
            stored, removed = self._blocks.block_changes()
            if stored or removed:
                self._connection.send(Blocks(stored, removed))

    def _tell_standing(self) -> None:
        if self._standby is not None and self._is_attached:
            for standing in self._standby.take_standing():
                self._connection.send(standing)

    def _patience_s(self) -> float | None:
        if not self._engine.has_work:
            return None
        return 0.0 if self._timed is None else self._timed.due_in_s

    def _ask_for_wanted(self) -> None:
        if self._streaming is not None and (ranges := self._streaming.take_wanted()):
            self._connection.send(Wanted(ranges))

    def _dispatch(self, message: ToWorker, descriptor: int | None) -> None:
        match message:
            case Attach() if not self._is_attached:
                self._attach(message, descriptor)
            case Generate() if self._is_attached:
                self._generate(message)
            case LoadAdapter() if self._is_attached:
                self._load_adapter(message)
            case Embed() if self._is_attached:
                self._embed(message)
            case Spellings() if self._is_attached:
                if isinstance(self._engine, GrammarEngine):
                    self._engine.set_spellings(message)
            case Cancel() if self._is_attached:
                self._engine.cancel(message.request_id, message.choice)
            case Arrived() if self._is_attached and self._streaming is not None:
                self._streaming.shards_arrived(message.num_shards)
            case Early() if self._is_attached and self._streaming is not None:
                for offset, data in message.parts:
                    self._streaming.take_early(offset, data)
            case Extend() if self._is_attached and self._standby is not None:
                self._extend(message, self._standby)
            case TakeBlocks() if self._is_attached:
                self._take_blocks(message)
            case PutBlocks() if self._is_attached:
                self._put_blocks(message)
            case _:
                state = "attached" if self._is_attached else "without a model"
                raise WireError(f"{type(message).__name__} sent to a worker that is {state}", source="agent")

    def _generate(self, request: Generate) -> None:
        try:
            if request.grammar and not isinstance(self._engine, GrammarEngine):
                raise UnsupportedFieldError(
                    f"the {self._engine.name} engine follows no format: leave out response_format, enforced calls",
                    param="response_format",
                )
            if request.is_standby and self._standby is None:
                raise UnsupportedFieldError(f"the {self._engine.name} engine prepares no requests")
            self._engine.add(request)
        except SllmError as error:
            self._connection.send(Failed(error.message, error.code, request.request_id, error.param))

    def _extend(self, message: Extend, engine: StandbyEngine) -> None:
        try:
            engine.extend(message)
        except SllmError as error:
            self._connection.send(Failed(error.message, error.code, message.request_id, error.param))

    def _take_blocks(self, message: TakeBlocks) -> None:
        copier = self._engine if isinstance(self._engine, BlockCopier) else None
        blocks = BlocksTaken(message.request_id, [], []) if copier is None else copier.take_blocks(message)
        self._connection.send(blocks)

    def _put_blocks(self, message: PutBlocks) -> None:
        try:
            copier = self._engine if isinstance(self._engine, BlockCopier) else None
            num_stored = 0 if copier is None else copier.put_blocks(message)
        except SllmError as error:
            self._connection.send(Failed(error.message, error.code, message.request_id, error.param))
        else:
            self._connection.send(BlocksPut(message.request_id, num_stored))

    def _load_adapter(self, message: LoadAdapter) -> None:
        try:
            if not isinstance(self._engine, AdapterEngine):
                raise UnsupportedFieldError(
                    f"model: the {self._engine.name} engine runs no adapters", param="model"
                )
            region = map_region(self._region_fd, message.extents)
            self._engine.load_adapter(message.adapter, Weights(region, message.layout))
        except SllmError as error:
            self._connection.send(Failed(error.message, error.code, message.adapter, error.param))
        else:
            self._connection.send(AdapterLoaded(message.adapter))

    def _embed(self, request: Embed) -> None:
        try:
            if not isinstance(self._engine, EmbeddingEngine):
                raise UnsupportedFieldError(
                    f"the {self._engine.name} engine makes no embeddings; register the model with engine torch",
                    param="model",
                )
            self._engine.embed(request)
        except SllmError as error:
            self._connection.send(Failed(error.message, error.code, request.request_id, error.param))

    def _attach(self, attach: Attach, descriptor: int | None) -> None:
        self._region_fd = descriptor
        try:
            attached = bind(self._engine, attach, descriptor)
        except SllmError as error:
            self._is_running = False
            self._connection.send(Failed(error.message, error.code))
        else:
            self._is_attached = True
            self._connection.send(attached)
