# SPDX-License-Identifier: Apache-2.0
"""Bring revisions into the arena: one load per revision at a time, room made when needed, nothing half-done left.

Knows the arena and local files; not models, slots or who calls. Runs in one event loop; reads in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeVar

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.region import Region
from serverlessllm.clock import Clock
from serverlessllm.config import LoaderConfig
from serverlessllm.errors import CapacityError, CorruptDataError, ShuttingDownError
from serverlessllm.loader.bandwidth import BandwidthEstimate, BandwidthMeter
from serverlessllm.loader.evict import EvictionCandidate, choose_victims
from serverlessllm.loader.job import LoadJob
from serverlessllm.loader.pipeline import LoadPipeline, ReadSource
from serverlessllm.loader.plan import LoadableArtifact, LoadPlan, plan_load
from serverlessllm.loader.report import Limit, LoadProgress, LoadReport, OnLoadProgress
from serverlessllm.sources.file import FileSource
from serverlessllm.types import Tier

MAX_LOADS: Final = 16
"""Loads that read at once; more wait for their turn. The device is shared, so more would not be faster."""

SourceOpener = Callable[[Path], ReadSource]

_T = TypeVar("_T")


class Loader:
    """Owner of all loads of one node. Call `close` before the arena's.

    A region is safe from eviction by other loads until the callers of its `load` have taken the result: pin it
    before the next await.
    """

    def __init__(
        self, arena: Arena, config: LoaderConfig, clock: Clock, *, open_source: SourceOpener | None = None
    ) -> None:
        """`open_source` opens one weights file; by default as a `FileSource`, as `config` says."""
        self._open_source = open_source or (lambda path: FileSource(path, direct_io=config.direct_io))
        self._arena = arena
        self._config = config
        self._clock = clock
        self._meter = BandwidthMeter()
        self._jobs: dict[str, LoadJob] = {}
        self._threads = ThreadPoolExecutor(MAX_LOADS, thread_name_prefix="loader")
        self._is_closed = False

    async def load(
        self, revision: str, artifact: LoadableArtifact, on_progress: OnLoadProgress | None = None
    ) -> LoadReport:
        """Make `revision` whole in the arena; joins a load of it that is under way.

        `on_progress` is called in the event loop. Cancelling the last caller stops the load and frees its
        region before the cancellation goes on.
        Raises: CapacityError when only regions in use could make room, naming them; InsufficientMemoryError
        when the arena is too small for it; CorruptDataError for a missing or truncated file, naming it, and
        for an artifact of another revision; ModelLoadError for I/O errors; ShuttingDownError after `close`.
        """
        if artifact.revision != revision:
            raise CorruptDataError(
                f"{artifact.directory} holds revision {artifact.revision}, not {revision}; fetch it again",
                param="revision",
                source="agent",
            )
        started_s = self._clock.monotonic_s()
        while not self._is_closed:
            region = self._arena.get(revision)
            if region is not None:
                self._arena.touch(revision)
                return _hit(region, self._clock.monotonic_s() - started_s)
            job = self._jobs.get(revision) or self._start(revision, artifact)
            if job.is_stopping:
                await job.ended()
                self._forget(revision, job)
                continue
            try:
                report = await job.join(on_progress)
            finally:
                self._forget(revision, job)
            if report is not None:
                return report
        raise ShuttingDownError("the loader is closed", source="agent")

    def bandwidth(self, tier: Tier) -> BandwidthEstimate:
        """What loads from `tier` gave on this node, or an assumption when there was none."""
        return self._meter.estimate(tier)

    def tier(self, revision: str, on_disk: bool) -> Tier:
        """The fastest tier that has the revision whole; `on_disk` says whether its artifact is here."""
        if self._arena.get(revision) is not None:
            return "dram"
        return "nvme" if on_disk else "remote"

    async def close(self) -> None:
        """Stop every load and wait until no thread writes any more. Idempotent."""
        self._is_closed = True
        jobs = list(self._jobs.values())
        for job in jobs:
            job.stop()
        for job in jobs:
            await job.ended()
        self._threads.shutdown()

    def _start(self, revision: str, artifact: LoadableArtifact) -> LoadJob:
        job = LoadJob()
        job.start(self._run(job, revision, artifact), f"load {revision}")
        job.task.add_done_callback(lambda _: self._forget(revision, job))
        self._jobs[revision] = job
        return job

    def _forget(self, revision: str, job: LoadJob) -> None:
        """Drop a job that has ended once its callers have its result; until then it shields its region."""
        has_callers = job.num_waiters > 0 and not job.is_stopping
        if job.task.done() and not has_callers and self._jobs.get(revision) is job:
            del self._jobs[revision]

    async def _run(self, job: LoadJob, revision: str, artifact: LoadableArtifact) -> LoadReport | None:
        started_s = self._clock.monotonic_s()
        with ExitStack() as cleanup:
            plan = plan_load(artifact.index, self._config.chunk_bytes)
            sources = await self._in_thread(job, lambda: self._open(artifact, plan, cleanup))
            if job.is_stopping:
                return None
            region = self._make_room(revision, artifact.index.weights_nbytes)
            cleanup.callback(self._release_unless_whole, region)
            planned_s = self._clock.monotonic_s()
            pipeline = LoadPipeline(
                plan,
                sources,
                region.view,
                num_threads=self._config.threads,
                on_progress=self._reporter(job, revision, plan.total_bytes, planned_s),
            )
            job.stop_reading = pipeline.stop
            if not await self._in_thread(job, pipeline.run):
                return None
            read_s = self._clock.monotonic_s() - planned_s
            self._arena.publish(region)
        total_s = self._clock.monotonic_s() - started_s
        return self._report(region, total_s, planned_s - started_s, read_s, pipeline.cpu_s)

    async def _in_thread(self, job: LoadJob, work: Callable[[], _T]) -> _T:
        """Run blocking work; when this task is cancelled, stop it and wait for its end before going on."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            job.stop()
            await asyncio.wait({future})
            raise

    def _open(self, artifact: LoadableArtifact, plan: LoadPlan, cleanup: ExitStack) -> dict[str, ReadSource]:
        """Open the plan's files and check their sizes before any room is taken."""
        sources: dict[str, ReadSource] = {}
        for name, nbytes in plan.file_bytes.items():
            path = artifact.directory / name
            source = self._open_source(path)
            cleanup.callback(source.close)
            if source.size < nbytes:
                raise CorruptDataError(
                    f"{path} is truncated: it has {source.size} of {nbytes} bytes; "
                    "convert or fetch the model again",
                    param=name,
                    source="agent",
                )
            sources[name] = source
        return sources

    def _make_room(self, revision: str, nbytes: int) -> Region:
        """Allocate, evicting what is worth least. No await: nothing else can take the room meanwhile."""
        try:
            return self._arena.allocate(revision, nbytes)
        except CapacityError:
            missing_bytes = self._arena.held_bytes(nbytes) - self._arena.free_bytes
            victims = choose_victims(self._candidates(), missing_bytes)
            if victims is None:
                raise self._no_room(revision, nbytes) from None
            for victim in victims:
                self._arena.release(victim)
            return self._arena.allocate(revision, nbytes)

    def _candidates(self) -> list[EvictionCandidate]:
        now_s = self._clock.monotonic_s()
        rate = self._meter.estimate("nvme").mean_bytes_per_s
        return [
            EvictionCandidate(
                revision=entry.revision,
                held_bytes=entry.held_bytes,
                restore_s=entry.nbytes / rate,
                idle_s=max(0.0, now_s - entry.last_used_s),
                is_evictable=entry.complete and not entry.pinned and entry.revision not in self._jobs,
            )
            for entry in self._arena.entries()
        ]

    def _no_room(self, revision: str, nbytes: int) -> CapacityError:
        held = [
            f"{entry.revision} ({entry.held_bytes} bytes, {'in use' if entry.complete else 'loading'})"
            for entry in self._arena.entries()
            if entry.pinned or not entry.complete or entry.revision in self._jobs
        ]
        return CapacityError(
            f"revision {revision} needs {self._arena.held_bytes(nbytes)} bytes of DRAM and the arena has "
            f"{self._arena.budget_bytes}, of which these cannot be evicted now: {', '.join(held)}; "
            "try again when a replica is idle, stop one, or raise arena.budget_bytes",
            source="agent",
        )

    def _release_unless_whole(self, region: Region) -> None:
        if not region.complete:
            self._arena.release(region.revision)

    def _reporter(
        self, job: LoadJob, revision: str, total_bytes: int, started_s: float
    ) -> Callable[[int, int], None]:
        """A callback for the reading threads that tells the job's callers, in the event loop."""
        loop = asyncio.get_running_loop()

        def report(done_bytes: int, num_ready: int) -> None:
            elapsed_s = self._clock.monotonic_s() - started_s
            eta_s = elapsed_s * (total_bytes - done_bytes) / done_bytes
            progress = LoadProgress(revision, done_bytes, total_bytes, eta_s, num_ready)
            loop.call_soon_threadsafe(job.tell, progress)

        return report

    def _report(
        self, region: Region, total_s: float, plan_s: float, read_s: float, cpu_s: float
    ) -> LoadReport:
        self._meter.observe("nvme", region.nbytes, read_s)
        limiting: Limit = "memory" if cpu_s > read_s / 2 else "nvme"
        return LoadReport(
            revision=region.revision,
            tier="nvme",
            nbytes=region.nbytes,
            seconds=total_s,
            gbps=region.nbytes / max(read_s, 1e-9) / 1e9,
            possible_gbps=self._meter.best_bytes_per_s("nvme") / 1e9,
            limiting=limiting,
            plan_ms=plan_s * 1e3,
            read_ms=read_s * 1e3,
        )


def _hit(region: Region, seconds: float) -> LoadReport:
    return LoadReport(region.revision, "dram", region.nbytes, seconds, 0.0, 0.0, "none", 0.0, 0.0)
