# SPDX-License-Identifier: Apache-2.0
"""Bring revisions into the arena: one load per revision at a time, room made when needed, nothing half-done left.

Knows the arena, the disk and origins; not models, slots or who calls. Runs in one event loop; reads in threads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.mapping import map_extents
from serverlessllm.arena.region import Region
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.clock import Clock
from serverlessllm.config import LoaderConfig
from serverlessllm.errors import CorruptDataError, NotFoundError, ShuttingDownError
from serverlessllm.loader.adopted import is_region_right
from serverlessllm.loader.bandwidth import BandwidthEstimate, BandwidthMeter
from serverlessllm.loader.disk.local_copy import SourceOpener
from serverlessllm.loader.disk.pace import DiskPace, PacedFileSource
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.disk.trust import DiskTrust
from serverlessllm.loader.dram_room import DramRoom
from serverlessllm.loader.incoming import OnIncoming
from serverlessllm.loader.io_settings import choose_io
from serverlessllm.loader.job import LoadJob
from serverlessllm.loader.load_task import LoadTask, LoadWish
from serverlessllm.loader.manifest import OriginOpener, read_manifest
from serverlessllm.loader.own_memory import MAX_COPIES, MAX_LOADS
from serverlessllm.loader.parts import LoaderParts
from serverlessllm.loader.plan import LoadableArtifact, file_sizes
from serverlessllm.loader.report import LoadReport, OnCorrupt, OnLoadProgress
from serverlessllm.loader.settlement import Settlement
from serverlessllm.loader.transfer.fetch_shares import FetchShares
from serverlessllm.loader.transfer.read_pool import ReadPool
from serverlessllm.loader.transfer.threads import LoaderThreads
from serverlessllm.node_profile import IoProfile
from serverlessllm.sources.download import DEFAULT_WORKERS
from serverlessllm.sources.file import FileIdentity, FileSource
from serverlessllm.types import Tier

_log = logging.getLogger(__name__)


class Loader:
    """Owner of all loads of one node. Call `close` before the arena's.

    A region is safe from eviction by other loads until the callers of its `load` have taken the result: pin it
    before the next await.

    Memory of its own, beside the arena: at most `own_memory.own_bytes`.
    """

    def __init__(
        self,
        arena: Arena,
        nvme: NvmeTier,
        config: LoaderConfig,
        clock: Clock,
        *,
        io_profile: IoProfile | None = None,
        open_origin: OriginOpener | None = None,
        num_fetch_workers: int = DEFAULT_WORKERS,
        open_source: SourceOpener | None = None,
        on_corrupt: OnCorrupt = lambda tier, number: None,
    ) -> None:
        """`io_profile` is what `sllm tune io` found; `open_origin` opens a file at an origin (None: loads have none),
        from which at most `num_fetch_workers` ranges are in flight per load; `open_source` opens a weights file on
        disk, by default as a `FileSource`; `on_corrupt` hears of wrong bytes, from any thread. Raises: ConfigError.
        """
        io = choose_io(config, io_profile)
        self._arena = arena
        self._nvme = nvme
        self._clock = clock
        self._open_origin = open_origin
        self._meter = BandwidthMeter()
        self._jobs: dict[str, LoadJob] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._threads = LoaderThreads(MAX_LOADS)
        self._room = DramRoom(arena, clock, busy=self._jobs, restore_rate=self._restore_rate)
        self._parts = LoaderParts(
            arena=arena,
            nvme=nvme,
            clock=clock,
            io=io,
            threads=self._threads,
            pool=ReadPool(io.num_threads),
            meter=self._meter,
            trust=DiskTrust(config.verify),
            room=self._room,
            open_source=open_source or _opener(config, io.direct_io, clock),
            open_origin=open_origin,
            fetch_shares=FetchShares(num_fetch_workers),
            copies=threading.BoundedSemaphore(MAX_COPIES),
            in_use=self.in_use,
            on_corrupt=on_corrupt,
        )
        self._is_closed = False

    async def load(
        self,
        revision: str,
        artifact: LoadableArtifact,
        on_progress: OnLoadProgress | None = None,
        *,
        on_incoming: OnIncoming | None = None,
        origins: Sequence[str] = (),
        priority: int = 0,
    ) -> LoadReport:
        """Make `revision` whole in the arena; joins a load of it that is under way.

        What the disk lacks, or has wrong, comes from `origins`. A step of `priority` doubles the share of the
        disk among loads, and the reluctance to evict. `on_progress` is called in the event loop, and so is
        `on_incoming`, once bytes begin to move: the region may be used shard by shard. Cancelling the last caller
        stops the load and frees its region before the cancellation goes on; what was fetched until then stays on
        the disk.
        Raises: CapacityError when only what is in use could make room in DRAM, naming it; DiskFullError;
        InsufficientMemoryError when the arena is too small; CorruptDataError for bytes that are missing or wrong
        here and at every origin, naming them, and for an artifact of another revision; ModelLoadError for I/O
        errors; UnreachableError when no origin answers; ShuttingDownError after `close`.
        """
        if artifact.revision != revision:
            raise CorruptDataError(
                f"{artifact.directory} holds revision {artifact.revision}, not {revision}; fetch it again",
                param="revision",
                source="agent",
            )
        started_s = self._clock.monotonic_s()
        wish = LoadWish(artifact, tuple(origins), priority)
        while not self._is_closed:
            region = self._arena.get(revision)
            if region is not None and region.verified:
                self._arena.touch(revision)
                self._room.note_priority(revision, priority)
                return hit(region, self._clock.monotonic_s() - started_s)
            job = self._jobs.get(revision) or self._start(revision, wish)
            if job.is_stopping:
                await job.ended()
                self._forget(revision, job)
                continue
            try:
                report = await job.join(on_progress, on_incoming)
            finally:
                self._forget(revision, job)
            if report is not None:
                return report
        raise ShuttingDownError("the loader is closed", source="agent")

    def note_losses(self, losses_s: Mapping[str, float]) -> None:
        """What callers would lose in expected seconds by each revision's leaving DRAM, as far as placement knows."""
        self._room.note_losses(losses_s)

    async def manifest(self, revision: str, directory: Path, origins: Sequence[str]) -> Artifact:
        """The artifact without its weights, which lie in `directory` or will: for a load from `origins`.

        Small files of an artifact that is here and were missing or wrong are mended.
        Raises as `manifest.read_manifest`; CorruptDataError when this loader knows no origins.
        """
        opener = self._open_origin
        if opener is None:
            raise CorruptDataError(f"{directory} is missing, and there are no origins", source="agent")

        def read() -> Artifact:
            manifest = read_manifest(revision, directory, origins, opener)
            if directory.is_dir():
                files = manifest.artifact.small_files()
                self._nvme.mend(directory, {name: files[name] for name in manifest.fetched})
            return manifest.artifact

        return await self._threads.run(read)

    async def check_adopted(self, revision: str, artifact: LoadableArtifact) -> bool:
        """Check an adopted region in the background, in one thread; a wrong one is dropped.

        Returns whether the revision is in the arena, and right.
        """
        region = self._arena.get(revision)
        if region is None or region.verified:
            return region is not None
        return bool(await self._check(artifact, region, 1, threading.Event()))

    def bandwidth(self, tier: Tier) -> BandwidthEstimate:
        """What loads from `tier` gave on this node, or an assumption when there was none."""
        return self._meter.estimate(tier)

    def source_bandwidths(self) -> dict[tuple[Tier, str], BandwidthEstimate]:
        """What each disk and origin gave."""
        return self._meter.sources()

    def possible_bytes_per_s(self, tier: Tier) -> float:
        """The most that `tier` is known to give: measured by `sllm tune io`, or by the fastest load; 0: unknown."""
        return self._parts.possible_bytes_per_s(tier)

    def tier(self, revision: str, on_disk: bool) -> Tier:
        """The fastest tier that has the revision whole; `on_disk` says whether its artifact is here."""
        if self._arena.get(revision) is not None:
            return "dram"
        return "nvme" if on_disk else "remote"

    def is_verified_on_disk(self, revision: str) -> bool:
        """Whether every weights file on disk was checked since this loader began, and has not changed since."""
        try:
            files = {
                path: FileIdentity.of(path.stat())
                for path in self._nvme.artifact_path(revision).glob("*.bin")
            }
        except OSError:
            return False
        return bool(files) and self._parts.trust.is_right(files)

    def in_use(self) -> set[str]:
        """Revisions that are being loaded or that a worker has pinned: their copies on disk stay."""
        return set(self._jobs) | {entry.revision for entry in self._arena.entries() if entry.pinned}

    async def close(self) -> None:
        """Stop every load and wait until no thread writes any more. Idempotent."""
        self._is_closed = True
        jobs = list(self._jobs.values())
        for job in jobs:
            job.stop()
        for job in jobs:
            await job.ended()
        if self._settling:
            await asyncio.wait(self._settling)
        await asyncio.to_thread(self._parts.pool.close)
        self._threads.close()

    def _start(self, revision: str, wish: LoadWish) -> LoadJob:
        job = LoadJob()
        job.start(self._run(job, revision, wish), f"load {revision}")
        job.task.add_done_callback(lambda _: self._forget(revision, job))
        self._jobs[revision] = job
        return job

    def _forget(self, revision: str, job: LoadJob) -> None:
        """Drop a job that has ended once its callers have its result; until then it shields its region."""
        has_callers = job.num_waiters > 0 and not job.is_stopping
        if job.task.done() and not has_callers and self._jobs.get(revision) is job:
            del self._jobs[revision]

    async def _run(self, job: LoadJob, revision: str, wish: LoadWish) -> LoadReport | None:
        started_s = self._clock.monotonic_s()
        adopted = self._arena.get(revision)
        if adopted is not None:
            stop = threading.Event()
            job.stop_reading = stop.set
            is_right = await self._check(wish.artifact, adopted, self._parts.io.num_threads, stop)
            if is_right:
                self._settle_aside(lambda: self._finish_fetch(wish, adopted))
                return hit(adopted, self._clock.monotonic_s() - started_s)
            if is_right is None:
                return None
        task = LoadTask(self._parts, job, wish)
        report = await task.run()
        if task.settlement is not None:
            self._settle_aside(task.settlement.run)
        if report is not None:
            _log.info("%s", report)
        return report

    async def _check(
        self, artifact: LoadableArtifact, region: Region, num_threads: int, stop: threading.Event
    ) -> bool | None:
        """Whether an adopted region is right; then it counts as verified, else it is dropped. None when stopped."""
        try:
            pin = self._arena.pin(region.revision)
        except NotFoundError:
            return False
        with pin:
            view = map_extents(pin.fd, region.extents, writable=False).view
            is_right = await self._threads.run(
                lambda: is_region_right(artifact.index, view, num_threads=num_threads, stop=stop),
                on_cancel=stop.set,
            )
        if is_right:
            region.verified = True
        elif is_right is False:
            _log.warning("adopted region %s has wrong bytes in memory: dropped", region.revision)
            self._arena.discard(region)
            self._parts.on_corrupt("dram", 1)
        return is_right

    def _finish_fetch(self, wish: LoadWish, adopted: Region) -> None:
        """Settle what a killed process fetched: it had the region whole, not yet the disk. Blocks."""
        artifact = wish.artifact
        if not self._nvme.fetch_path(artifact.revision).is_dir():
            return
        files = list(file_sizes(artifact.index))
        staged = self._parts.staged_copy(artifact)
        try:
            found = staged.resume(files)
            staged.begin([file for file in files if file not in found and not staged.is_in_place(file)])
            if staged.has_begun:
                pin = self._arena.pin(artifact.revision)
                Settlement(artifact, wish.origins, self._nvme, staged, adopted, pin).run()
        finally:
            staged.close()

    def _settle_aside(self, work: Callable[[], None]) -> None:
        """Bring what was fetched to its place on the disk, while the model answers already."""
        settling = asyncio.get_running_loop().create_task(self._threads.run(work))
        self._settling.add(settling)
        settling.add_done_callback(self._settled)

    def _settled(self, settling: asyncio.Task[None]) -> None:
        self._settling.discard(settling)
        error = None if settling.cancelled() else settling.exception()
        if error is not None:
            _log.warning("what was fetched could not be kept on disk: %s", error)

    def _restore_rate(self, revision: str) -> float:
        """Bytes/s at which a revision would come back: from disk while a copy is there, else from its origin."""
        is_here = self._nvme.artifact_path(revision).is_dir()
        return self._meter.estimate("nvme" if is_here else "remote").mean_bytes_per_s


def _opener(config: LoaderConfig, direct_io: str, clock: Clock) -> SourceOpener:
    """How files on the node's disk are opened: at their full speed, or at the configured one."""
    if not config.max_disk_bytes_per_s:
        return lambda path: FileSource(path, direct_io=direct_io)
    pace = DiskPace(config.max_disk_bytes_per_s, clock)
    return lambda path: PacedFileSource(path, pace, direct_io=direct_io)


def hit(region: Region, seconds: float) -> LoadReport:
    """The report of a load that found its bytes in DRAM."""
    return LoadReport(region.revision, "dram", region.nbytes, seconds, 0.0, 0.0, "none", 0.0, 0.0)
