# SPDX-License-Identifier: Apache-2.0
"""One load from plan to report: what is here, what is cheapest, room, bytes, and what becomes of the disk's copy.

Knows one artifact; not who waits for it, nor other loads. For one event loop; its blocking parts run in threads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from serverlessllm.arena.region import Region
from serverlessllm.errors import CorruptDataError, ModelLoadError
from serverlessllm.loader.disk.local_copy import LocalCopy
from serverlessllm.loader.incoming import Incoming
from serverlessllm.loader.job import LoadJob
from serverlessllm.loader.outcome import Outcome
from serverlessllm.loader.parts import LoaderParts
from serverlessllm.loader.plan import LoadableArtifact, LoadPlan, Offer, arrival_order, plan_load
from serverlessllm.loader.report import LoadProgress, LoadReport
from serverlessllm.loader.settlement import Settlement
from serverlessllm.loader.transfer.arrivals import OnProgress
from serverlessllm.loader.transfer.early import EarlyReads, EarlySource, first_that_opens
from serverlessllm.loader.transfer.fetch import RemoteFetch
from serverlessllm.loader.transfer.pipeline import Failure
from serverlessllm.loader.transfer.run import LoadRun, RunSettings
from serverlessllm.loader.transfer.turns import weight_of
from serverlessllm.types import Tier

FAST_ORIGIN_BYTES_PER_S: Final = 5e8
"""Slower ones get all their connections for few chunks at a time, so that the first blocks are there early."""
NUM_CHUNKS_IN_FLIGHT: Final = 2

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class LoadWish:
    """What the first caller of a load asked for."""

    artifact: LoadableArtifact
    origins: tuple[str, ...]
    priority: int


class LoadTask:
    """`run` once; then run the `settlement`, where there is one: fetched bytes wait to become files."""

    def __init__(self, parts: LoaderParts, job: LoadJob, wish: LoadWish) -> None:
        self._parts = parts
        self._job = job
        self._wish = wish
        self._fetch: RemoteFetch | None = None
        self.settlement: Settlement | None = None

    async def run(self) -> LoadReport | None:
        """The report once the region is whole; None when the job was stopped. Raises as `Loader.load`."""
        artifact, now_s = self._wish.artifact, self._parts.clock.monotonic_s
        started_s = now_s()
        with ExitStack() as cleanup:
            cleanup.callback(self._close_fetch)
            copy = await self._blocking(self._open)
            cleanup.callback(copy.close)
            plan = self._plan(copy)
            if self._fetch is not None and (remote := plan.of_tier("remote")):
                files = list(dict.fromkeys(read.file for read in remote))
                staged = self._fetch.staged
                await self._blocking(lambda: staged.begin(files))
            if self._job.is_stopping:
                return None
            region = self._parts.room.make(artifact.revision, artifact.index.weights_nbytes)
            cleanup.callback(self._release_unless_whole, region)
            planned_s = now_s()
            run = self._make_run(plan, copy, region, planned_s)
            self._announce(plan, copy, region)
            if not await self._read(run):
                return None
            moved_s = now_s() - planned_s
            self._publish(region)
        outcome = Outcome(plan, run, self._fetch, region.revision, region.nbytes, moved_s)
        outcome.observe(self._parts.meter)
        return outcome.report(self._parts, seconds=now_s() - started_s, plan_ms=(planned_s - started_s) * 1e3)

    async def _blocking(self, work: Callable[[], _T]) -> _T:
        return await self._parts.threads.run(work, on_cancel=self._job.stop)

    def _open(self) -> LocalCopy:
        """Look at the disk: whole files, and what an earlier fetch left. Blocks."""
        artifact, origins, opener = self._wish.artifact, self._wish.origins, self._parts.open_origin
        copy = LocalCopy(artifact.directory, artifact.index, self._parts.open_source)
        try:
            if not origins or opener is None:
                for problem in copy.problems.values():
                    raise problem
                return copy
            staged = self._parts.staged_copy(artifact)
            is_slow = self._parts.meter.estimate("remote").mean_bytes_per_s < FAST_ORIGIN_BYTES_PER_S
            self._fetch = RemoteFetch(
                origins,
                opener,
                staged,
                shares=self._parts.fetch_shares,
                weight=weight_of(self._wish.priority),
                copies=self._parts.copies,
                num_chunks_at_once=NUM_CHUNKS_IN_FLIGHT if is_slow else None,
            )
            for file, (path, chunks) in staged.resume(list(copy.problems)).items():
                copy.add_partial(file, path, chunks)
        except BaseException:
            copy.close()
            raise
        return copy

    def _plan(self, copy: LocalCopy) -> LoadPlan:
        index = self._wish.artifact.index
        return plan_load(
            index,
            self._offers(copy),
            max_read_bytes=self._parts.io.read_bytes,
            shards=arrival_order(index),
        )

    def _announce(self, plan: LoadPlan, copy: LocalCopy, region: Region) -> None:
        """Tell who would use the region before it is whole."""
        paths, parts, origins = dict(copy.paths), self._parts, self._wish.origins

        def open_source(tier: Tier, file: str) -> EarlySource:
            opener = parts.open_origin
            if tier == "nvme" or opener is None:
                return parts.open_source(paths[file])
            return first_that_opens([partial(opener, origin, file) for origin in origins])

        early = EarlyReads(plan.reads, open_source, lambda tier: parts.meter.estimate(tier).mean_bytes_per_s)
        self._job.announce(Incoming(region, self._wish.artifact.index, plan, parts.arena, early))

    def _offers(self, copy: LocalCopy) -> list[Offer]:
        """What each tier has, at what it costs by experience."""
        cost = {tier: 1 / self._parts.meter.estimate(tier).mean_bytes_per_s for tier in ("nvme", "remote")}
        offers = [Offer("nvme", cost["nvme"], copy.chunks)]
        if self._fetch is not None:
            # The disk is taken where it has the bytes: what it costs is ours, a transfer costs others too.
            offers.append(Offer("remote", max(cost["remote"], cost["nvme"])))
        return offers

    def _make_run(self, plan: LoadPlan, copy: LocalCopy, region: Region, started_s: float) -> LoadRun:
        trust = self._parts.trust
        verify_files = {
            name
            for name, source in copy.sources.items()
            if trust.must_verify(copy.paths[name], source.identity)
        }
        run = LoadRun(
            plan,
            copy,
            self._fetch,
            region.view,
            settings=RunSettings(
                self._parts.io.read_bytes, weight_of(self._wish.priority), frozenset(verify_files)
            ),
            on_progress=self._reporter(plan, started_s),
        )
        self._job.stop_reading = run.stop
        return run

    async def _read(self, run: LoadRun) -> bool:
        """Move the bytes, and remember which files were right, or were not."""
        try:
            return await self._blocking(lambda: run.run(self._parts.pool))
        except (CorruptDataError, ModelLoadError) as error:
            if self._fetch is None and run.failures and isinstance(error, CorruptDataError):
                failures = run.failures
                aside = await self._blocking(lambda: self._quarantine(failures))
                raise CorruptDataError(
                    f"{error.message}; put aside: {', '.join(aside)}", param=error.param, source="agent"
                ) from error
            raise
        finally:
            run.note_trust(self._parts.trust)
            self._tell_corrupt(run)

    def _tell_corrupt(self, run: LoadRun) -> None:
        """Which shards were wrong on the disk, and how often an origin sent wrong bytes."""
        wrong = {one.read.shard for one in run.failures if isinstance(one.error, CorruptDataError)}
        if wrong:
            self._parts.on_corrupt("nvme", len(wrong))
        if self._fetch is not None and self._fetch.num_corrupt:
            self._parts.on_corrupt("remote", self._fetch.num_corrupt)

    def _quarantine(self, failures: list[Failure]) -> list[str]:
        directory = self._wish.artifact.directory
        files = dict.fromkeys(failure.read.file for failure in failures)
        places = [self._parts.nvme.quarantine(directory / file) for file in files]
        return [str(place) for place in places if place is not None]

    def _publish(self, region: Region) -> None:
        artifact, origins = self._wish.artifact, self._wish.origins
        self._parts.arena.publish(region)
        self._parts.room.note_priority(region.revision, self._wish.priority)
        if self._fetch is not None and self._fetch.staged.has_begun:
            pin = self._parts.arena.pin(region.revision)
            self.settlement = Settlement(artifact, origins, self._parts.nvme, self._fetch.staged, region, pin)
        self._parts.nvme.note_use(region.revision, origins)

    def _close_fetch(self) -> None:
        """Leave what was fetched for a later load, unless it is about to be settled."""
        if self._fetch is not None and self.settlement is None:
            self._fetch.staged.close()

    def _release_unless_whole(self, region: Region) -> None:
        if not region.complete:
            self._parts.arena.discard(region)  # a worker may have mapped it already

    def _reporter(self, plan: LoadPlan, started_s: float) -> OnProgress:
        """A callback for the reading threads that tells the job's callers, in the event loop."""
        revision, clock, tell = self._wish.artifact.revision, self._parts.clock, self._job.tell_from_thread()
        is_fetching = plan.tier_bytes("remote") > 0

        def report(done_bytes: int, num_ready: int) -> None:
            elapsed_s = clock.monotonic_s() - started_s
            eta_s = elapsed_s * (plan.total_bytes - done_bytes) / done_bytes
            tell(LoadProgress(revision, done_bytes, plan.total_bytes, eta_s, num_ready, is_fetching))

        return report
