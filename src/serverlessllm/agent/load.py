# SPDX-License-Identifier: Apache-2.0
"""One load: from a fresh replica to one that answers.

    queue   wait for a seat among `max_replicas` and for room in DRAM
    fetch   bytes come from origins into the arena and onto the disk, or else
    read    bytes move from the disk into the arena; meanwhile a slot is taken and the tokenizer is parsed
    bind    the slot takes the weights

Where the engine takes weights that are still arriving, the slot is bound as soon as slot and tokenizer are there: the
replica answers from then on, and `rest` is what is left of the load. A load whose bytes are in DRAM and whose text is
parsed reads no file. Knows no HTTP, and not who waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from serverlessllm.agent.admission import RECHECK_S, Admission
from serverlessllm.agent.artifacts import OpenArtifact, OpenArtifacts
from serverlessllm.agent.load_checks import check_budget, check_dtype, check_ranks
from serverlessllm.agent.load_messages import attach_of, bandwidths, early_result_of, result_of
from serverlessllm.agent.node_traces import NodeTraces
from serverlessllm.agent.replica import Replica
from serverlessllm.agent.reporter import Reporter
from serverlessllm.agent.weight_stream import WeightStream
from serverlessllm.arena.arena import Arena
from serverlessllm.clock import Clock
from serverlessllm.config import Config
from serverlessllm.engine.slots import SlotPool
from serverlessllm.errors import (
    CapacityError,
    DiskFullError,
    EngineError,
    ModelLoadError,
    NotFoundError,
    WorkerLostError,
)
from serverlessllm.loader.incoming import Incoming
from serverlessllm.loader.loader import Loader
from serverlessllm.loader.report import LoadProgress, LoadReport
from serverlessllm.text.tokenizer import TextCache, TextModel
from serverlessllm.wire.agent import LoadRequest, LoadResult

STREAM_MIN_S: Final = 0.02
"""Bytes that are expected sooner are there before a worker has bound: it gets them whole."""


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What a load works with."""

    config: Config
    clock: Clock
    arena: Arena
    loader: Loader
    slots: SlotPool
    texts: TextCache
    reporter: Reporter
    traces: NodeTraces


class Load:
    """`run` once, then `rest` where `is_streaming`. On an error or a cancellation the replica holds whatever it got
    so far: unbind it.
    """

    def __init__(
        self,
        parts: NodeParts,
        artifacts: OpenArtifacts,
        admission: Admission,
        replica: Replica,
        request: LoadRequest,
        *,
        may_stream: bool = True,
    ) -> None:
        """`may_stream`: whether the replica may answer before all bytes are there."""
        self._parts = parts
        self._artifacts = artifacts
        self._admission = admission
        self._replica = replica
        self._request = request
        self._timeout_s = parts.config.agent.load_timeout_s
        self._limit: asyncio.Timeout | None = None
        self._admitted = asyncio.Event()
        self._may_stream = may_stream and parts.config.engine.layer_streaming
        self._moving = asyncio.Event()
        self._moving_s = 0.0
        self._incoming: Incoming | None = None
        self._reading: asyncio.Task[LoadReport] | None = None
        self._stream: WeightStream | None = None
        self._bind_ms = 0.0
        self._no_room: CapacityError | None = None

    @property
    def is_streaming(self) -> bool:
        """Whether bytes still arrive for a replica that takes requests already."""
        return self._stream is not None and self._reading is not None and not self._reading.done()

    async def run(self) -> LoadResult:
        """Wait for room for at most `load_timeout_s`, then read and bind within the same again. Returns once the
        replica takes requests.

        Raises: InsufficientMemoryError (never fits), CapacityError (no room in time), DiskFullError,
        CheckpointError, ConfigError, ModelLoadError for whatever else prevents it.
        """
        try:
            async with self._within_limit():
                return await self._read_and_bind()
        except BaseException:
            await self._stop_reading()
            raise

    async def rest(self) -> LoadResult:
        """Wait until all bytes are there, within `load_timeout_s` of standing still. Raises as `run`."""
        try:
            async with self._within_limit():
                return self._result(await self._whole())
        finally:
            await self._stop_reading()

    @asynccontextmanager
    async def _within_limit(self) -> AsyncIterator[None]:
        """At most `load_timeout_s`, unless it is restarted meanwhile."""
        try:
            async with asyncio.timeout(self._timeout_s) as self._limit:
                yield
        except TimeoutError as error:
            self._raise_timeout(error)
        except (WorkerLostError, EngineError, OSError) as error:
            raise ModelLoadError(
                f"model {self._replica.key.model} could not be loaded: {error}", source="agent"
            ) from error
        finally:
            self._limit = None

    async def _read_and_bind(self) -> LoadResult:
        opened = await self._artifacts.open(
            Path(self._request.artifact), self._replica.key.revision, self._request.origins
        )
        self._replica.nbytes = opened.nbytes
        self._replica.held_bytes = self._parts.arena.held_bytes(opened.nbytes)
        check_budget(self._replica, self._parts.arena.budget_bytes)
        check_ranks(self._replica, self._parts.config.engine)
        self._reading = asyncio.create_task(self._read(opened))
        text = await self._gather(opened)
        self._stream = self._as_stream()
        if self._stream is None:
            await self._whole()
            if self._replica.engine == "vllm":  # its bind is the start of a server
                self._timeout_s = max(self._timeout_s, self._parts.config.engine.vllm_start_timeout_s)
                self._restart_limit()
            self._note_progress("bind", opened.nbytes, 0.0)
        bound_s = self._parts.clock.monotonic_s()
        check_dtype(self._replica, self._request.dtype)
        attach = attach_of(self._parts.config.engine, self._parts.arena, self._request, opened, self._stream)
        await self._replica.bind(attach, text, self._stream)
        self._bind_ms = (self._parts.clock.monotonic_s() - bound_s) * 1e3
        if self._stream is not None and self.is_streaming:
            return early_result_of(
                self._replica, self._stream, (bound_s - self._moving_s) * 1e3, self._bind_ms
            )
        return self._result(await self._whole())

    def _result(self, report: LoadReport) -> LoadResult:
        if report.tier != "dram":
            self._parts.reporter.bandwidths_changed(bandwidths(self._parts.loader))
        return result_of(self._replica, report, self._bind_ms)

    async def _gather(self, opened: OpenArtifact) -> TextModel:
        """Slot and tokenizer, and room for the bytes, at the same time; the first failure cancels the rest."""
        try:
            async with asyncio.TaskGroup() as group:
                text = group.create_task(self._parts.texts.get(opened.artifact))
                group.create_task(self._take_slot())
                group.create_task(self._movement())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return text.result()

    async def _movement(self) -> None:
        """Wait until bytes arrive, or are there. Raises what reading raises."""
        moving = asyncio.create_task(self._moving.wait())
        try:
            if self._reading is not None:
                await asyncio.wait({moving, self._reading}, return_when=asyncio.FIRST_COMPLETED)
                if self._reading.done():
                    self._reading.result()
        finally:
            moving.cancel()

    def _as_stream(self) -> WeightStream | None:
        """What to bind a worker to that begins before the bytes are whole; None: wait for them."""
        incoming, reading = self._incoming, self._reading
        if not self._may_stream or not self._replica.can_stream or incoming is None:
            return None
        if reading is None or reading.done() or incoming.expected_s < STREAM_MIN_S:
            return None
        stream = WeightStream(incoming, self._moving_s, self._parts.clock)
        with suppress(NotFoundError):  # the load has failed in this moment
            self._replica.take_pin(stream.pin())
            return stream
        return None

    async def _whole(self) -> LoadReport:
        """The report of the bytes. A caller's cancellation reaches the reading."""
        if self._reading is None:
            raise RuntimeError("nothing is being read")
        return await self._reading

    async def _stop_reading(self) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
            await asyncio.wait({self._reading})

    async def _take_slot(self) -> None:
        await self._admitted.wait()
        await self._replica.take_slot()

    async def _read(self, opened: OpenArtifact) -> LoadReport:
        """Bytes into the arena, and a pin on them."""
        revision = opened.artifact.revision
        self._note_progress("queue", 0, 0.0)
        while True:
            leave = await self._admission.enter(
                self._replica, evict_idle=self._request.evict_idle, losses=self._request.losses
            )
            try:
                self._note_admission()
                self._parts.loader.note_losses(
                    {revision: loss.evict_s for revision, loss in self._request.losses.items()}
                )
                progress = partial(self._note_read, leave)
                report = await self._parts.loader.load(
                    revision,
                    opened.artifact,
                    progress,
                    on_incoming=partial(self._note_incoming, leave),
                    origins=self._request.origins,
                    priority=self._request.priority,
                )
                if self._stream is not None:
                    self._stream.finish()
                else:
                    self._replica.take_pin(self._parts.arena.pin(revision))
                return report
            except DiskFullError:
                raise
            except CapacityError as error:
                self._incoming = None
                if self._stream is not None:
                    raise
                self._no_room = error
                # Somebody else pinned bytes between our look and our act: line up again.
                await asyncio.sleep(RECHECK_S)
            finally:
                leave()

    def _note_incoming(self, leave: Callable[[], None], incoming: Incoming) -> None:
        leave()  # the region is allocated: the next load may look for room
        self._incoming = incoming
        self._moving_s = self._parts.clock.monotonic_s()
        self._moving.set()
        self._note_progress("fetch" if incoming.tier == "remote" else "read", 0, incoming.expected_s)

    def _note_read(self, leave: Callable[[], None], progress: LoadProgress) -> None:
        leave()
        if progress.is_fetching or self._stream is not None:
            self._restart_limit()  # a network takes as long as it takes; the limit is on standing still
        if self._stream is not None:
            self._stream.note()
        phase = "fetch" if progress.is_fetching else "read"
        self._note_progress(phase, progress.done_bytes, progress.eta_s)

    def _note_admission(self) -> None:
        """From here on others no longer hold it up: what follows has its own time limit."""
        if not self._admitted.is_set():
            self._admitted.set()
            self._restart_limit()

    def _restart_limit(self) -> None:
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._timeout_s)

    def _note_progress(self, phase: str, done_bytes: int, eta_s: float) -> None:
        self._parts.reporter.load_progressed(
            self._replica.key, phase, done_bytes, self._replica.nbytes, eta_s
        )

    def _raise_timeout(self, error: TimeoutError) -> NoReturn:
        model = self._replica.key.model
        if not self._admitted.is_set():
            raise CapacityError(
                f"model {model} found no room within {self._timeout_s:.0f} s: all other replicas were in use; "
                "retry, or raise arena.budget_bytes or engine.max_replicas",
                source="agent",
            ) from error
        if self._no_room is not None:
            raise self._no_room from error
        raise ModelLoadError(
            f"model {model} was not ready within {self._timeout_s:.0f} s; see agent.load_timeout_s and "
            "engine.vllm_start_timeout_s",
            source="agent",
        ) from error
