# SPDX-License-Identifier: Apache-2.0
"""One load: from a fresh replica to one that answers.

    queue   wait for a seat among `max_replicas` and for room in DRAM
    fetch   bytes come from origins into the arena and onto the disk, or else
    read    bytes move from the disk into the arena; meanwhile a slot is taken and the tokenizer is parsed
    bind    the slot takes the weights

A load whose bytes are in DRAM and whose text is parsed reads no file. Knows no HTTP, and not who waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from serverlessllm.agent.admission import RECHECK_S, Admission
from serverlessllm.agent.artifacts import OpenArtifact, OpenArtifacts
from serverlessllm.agent.replica import Replica
from serverlessllm.agent.reporter import Reporter
from serverlessllm.arena.arena import Arena
from serverlessllm.clock import Clock
from serverlessllm.config import Config
from serverlessllm.engine.slots import SlotPool
from serverlessllm.errors import (
    CapacityError,
    ConfigError,
    EngineError,
    InsufficientMemoryError,
    ModelLoadError,
    WorkerLostError,
)
from serverlessllm.loader.loader import Loader
from serverlessllm.loader.report import LoadProgress, LoadReport
from serverlessllm.text.tokenizer import TextCache, TextModel
from serverlessllm.types import Tier
from serverlessllm.wire.agent import BandwidthStatus, LoadRequest, LoadResult
from serverlessllm.wire.worker import Attach

READ_TIERS: Final[tuple[Tier, ...]] = ("nvme", "remote")


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


class Load:
    """`run` once. On an error or a cancellation the replica holds whatever it got so far: unbind it."""

    def __init__(
        self,
        parts: NodeParts,
        artifacts: OpenArtifacts,
        admission: Admission,
        replica: Replica,
        request: LoadRequest,
    ) -> None:
        self._parts = parts
        self._artifacts = artifacts
        self._admission = admission
        self._replica = replica
        self._request = request
        self._timeout_s = parts.config.agent.load_timeout_s
        self._limit = asyncio.timeout(self._timeout_s)
        self._admitted = asyncio.Event()

    async def run(self) -> LoadResult:
        """Wait for room for at most `load_timeout_s`, then read and bind within the same again.

        Raises: InsufficientMemoryError (never fits), CapacityError (no room in time), CheckpointError,
        ConfigError, ModelLoadError for whatever else prevents it.
        """
        try:
            async with self._limit:
                return await self._read_and_bind()
        except TimeoutError as error:
            self._raise_timeout(error)
        except (WorkerLostError, EngineError, OSError) as error:
            raise ModelLoadError(
                f"model {self._replica.key.model} could not be loaded: {error}", source="agent"
            ) from error

    async def _read_and_bind(self) -> LoadResult:
        opened = await self._artifacts.open(
            Path(self._request.artifact), self._replica.key.revision, self._request.origins
        )
        self._replica.nbytes = opened.nbytes
        self._replica.held_bytes = self._parts.arena.held_bytes(opened.nbytes)
        self._check_budget()
        text, report = await self._gather(opened)
        read_s = self._parts.clock.monotonic_s()
        self._check_dtype()
        if self._replica.engine == "vllm":  # its bind is the start of a server
            self._timeout_s = max(self._timeout_s, self._parts.config.engine.vllm_start_timeout_s)
            self._restart_limit()
        self._note_progress("bind", opened.nbytes, 0.0)
        await self._replica.bind(self._attach(opened), text)
        bind_ms = (self._parts.clock.monotonic_s() - read_s) * 1e3
        return self._result(report, bind_ms)

    async def _gather(self, opened: OpenArtifact) -> tuple[TextModel, LoadReport]:
        """Bytes, slot and tokenizer at the same time; the first failure cancels the rest."""
        try:
            async with asyncio.TaskGroup() as group:
                text = group.create_task(self._parts.texts.get(opened.artifact))
                group.create_task(self._take_slot())
                report = group.create_task(self._read(opened))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return text.result(), report.result()

    async def _take_slot(self) -> None:
        await self._admitted.wait()
        await self._replica.take_slot()

    async def _read(self, opened: OpenArtifact) -> LoadReport:
        """Bytes into the arena, and a pin on them."""
        revision = opened.artifact.revision
        self._note_progress("queue", 0, 0.0)
        while True:
            leave = await self._admission.enter(self._replica, evict_idle=self._request.evict_idle)
            try:
                self._note_admission()
                progress = partial(self._note_read, leave)
                report = await self._parts.loader.load(
                    revision,
                    opened.artifact,
                    progress,
                    origins=self._request.origins,
                    priority=self._request.priority,
                )
                self._replica.take_pin(self._parts.arena.pin(revision))
                return report
            except CapacityError:
                # Somebody else pinned bytes between our look and our act: line up again.
                await asyncio.sleep(RECHECK_S)
            finally:
                leave()

    def _note_read(self, leave: Callable[[], None], progress: LoadProgress) -> None:
        leave()  # the region is allocated: the next load may look for room
        if progress.is_fetching:
            self._restart_limit()  # a network takes as long as it takes; the limit is on standing still
        phase = "fetch" if progress.is_fetching else "read"
        self._note_progress(phase, progress.done_bytes, progress.eta_s)

    def _note_admission(self) -> None:
        """From here on others no longer hold it up: what follows has its own time limit."""
        if not self._admitted.is_set():
            self._admitted.set()
            self._restart_limit()

    def _restart_limit(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time() + self._timeout_s)

    def _check_budget(self) -> None:
        budget_bytes = self._parts.arena.budget_bytes
        if self._replica.held_bytes > budget_bytes:
            raise InsufficientMemoryError(
                f"model {self._replica.key.model} needs {self._replica.held_bytes} bytes of DRAM, this node's "
                f"budget is {budget_bytes}; raise arena.budget_bytes or use a smaller model",
                param="model",
                source="agent",
            )

    def _check_dtype(self) -> None:
        wanted, found = self._request.dtype, self._replica.dtype
        if self._replica.engine == "torch" and wanted != "auto" and found is not None and wanted != found:
            raise ConfigError(
                f"model {self._replica.key.model} asks for {wanted}, this node's engine computes in {found}; "
                "set engine.dtype, or let the model use auto",
                param="dtype",
                source="agent",
            )

    def _attach(self, opened: OpenArtifact) -> Attach:
        region = self._parts.arena.get(opened.artifact.revision)
        config = self._parts.config.engine
        options = dict(self._request.options)
        if self._replica.engine == "simulated":
            options = {
                "load_s": config.simulated_load_s,
                "prefill_s": config.simulated_prefill_s,
                "token_s": config.simulated_token_s,
            } | options
        return Attach(
            revision=opened.artifact.revision,
            layout=opened.layout,
            extents=[] if region is None else region.extents,
            max_num_seqs=config.max_num_seqs,
            max_model_len_tokens=config.max_model_len_tokens,
            options=options,
            kv_cache_bytes=config.kv_cache_bytes,
        )

    def _result(self, report: LoadReport, bind_ms: float) -> LoadResult:
        if report.tier != "dram":
            self._parts.reporter.bandwidths_changed(bandwidths(self._parts.loader))
        return LoadResult(
            model=self._replica.key.model,
            revision=self._replica.key.revision,
            attempt=self._replica.attempt,
            start="cold" if report.tier == "remote" else "warm",
            tier=report.tier,
            nbytes=report.nbytes,
            fetch_ms=report.fetch_ms,
            read_ms=report.read_ms,
            bind_ms=bind_ms,
            gbps=report.gbps,
            possible_gbps=report.possible_gbps,
            limiting=report.limiting,
        )

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
        raise ModelLoadError(
            f"model {model} was not ready within {self._timeout_s:.0f} s; see agent.load_timeout_s and "
            "engine.vllm_start_timeout_s",
            source="agent",
        ) from error


def bandwidths(loader: Loader) -> list[BandwidthStatus]:
    """What the loader observed, as the wire says it: each tier that is read from, then each disk and origin."""
    by_tier = [(tier, "", loader.bandwidth(tier)) for tier in READ_TIERS]
    by_source = [(tier, source, estimate) for (tier, source), estimate in loader.source_bandwidths().items()]
    return [
        BandwidthStatus(tier, estimate.mean_bytes_per_s, estimate.variance, estimate.samples, source)
        for tier, source, estimate in by_tier + by_source
    ]
