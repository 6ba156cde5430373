# SPDX-License-Identifier: Apache-2.0
"""Jobs: a bounded number at once, equal requests merged, cancelled on demand, found again after a kill.

    state     → entered by                     → next
    queued    → `submit`, or a restart         → running, when a place is free
    running   → its child was started          → done | failed | cancelled
    done, failed, cancelled → final            → forgotten when many newer ones have ended

Knows no HTTP and no format: `child.py` runs the work. One event loop owns everything here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Final, TypeVar

import msgspec

from serverlessllm.clock import Clock
from serverlessllm.errors import NotFoundError, QueueFullError, ShuttingDownError, SllmError
from serverlessllm.ingest.child import run_child
from serverlessllm.ingest.job_store import JobStore
from serverlessllm.ingest.workplace import Workplace, shown
from serverlessllm.types import mint_id
from serverlessllm.wire.ingest import (
    Failure,
    Fetched,
    FromChild,
    IngestRequest,
    Job,
    Progress,
    Published,
    Resolved,
)

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_WAITING_JOBS: Final = 256
MAX_FINISHED_JOBS: Final = 1024
"""Finished jobs that are remembered; the oldest are forgotten first."""


class Jobs:
    """All jobs of one ingest service. `start` takes up what a killed service left; `close` stops, to be taken up."""

    def __init__(self, store: JobStore, workplace: Workplace, max_jobs: int, clock: Clock) -> None:
        self._store = store
        self._workplace = workplace
        self._turns = asyncio.Semaphore(max_jobs)
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._submitting = asyncio.Lock()
        # One thread, so that a job's states reach the disk in order; a disk that is slow holds nobody else up.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._is_closed = False

    async def start(self) -> None:
        """Read what is on disk: finished jobs are remembered, the others run again from where their bytes are."""
        for job in await self._on_disk(self._store.load):
            self._jobs[job.id] = job
            if not job.is_finished:
                log.info("%s (%s) is taken up again", job.id, shown(job.source))
                self._jobs[job.id] = _restarted(job)
                self._spawn(job.id)
        known = list(self._jobs.values())
        unfinished = {job.resolved or job.source for job in known if not job.is_finished}
        done = {job.resolved for job in known if job.state == "done" and job.resolved is not None}
        await asyncio.to_thread(self._workplace.sweep, unfinished, done - unfinished)

    async def submit(self, request: IngestRequest) -> Job:
        """Start a job, or join the unfinished one of an equal request. It is on disk when this returns.

        Raises: QueueFullError, ShuttingDownError, CapacityError.
        """
        if self._is_closed:
            raise ShuttingDownError("the ingest service is stopping", source="ingest")
        async with self._submitting:
            return self._equal(request) or await self._add(request)

    def _equal(self, request: IngestRequest) -> Job | None:
        wanted = (request.source, request.dtype, request.publish, request.republish)
        for job_id in self._tasks:
            job = self._jobs[job_id]
            asked = (job.source, job.dtype, job.publish, job.republish)
            if asked == wanted and not job.is_finished:
                return job
        return None

    async def _add(self, request: IngestRequest) -> Job:
        if len(self._tasks) >= MAX_WAITING_JOBS:
            raise QueueFullError(f"{len(self._tasks)} jobs wait already", source="ingest", retry_after_s=10.0)
        job = Job(
            id=mint_id("job"),
            state="queued",
            source=request.source,
            dtype=request.dtype,
            publish=request.publish,
            republish=request.republish,
            created_at_s=self._clock.wall_s(),
        )
        await self._on_disk(lambda: self._store.save(job))
        self._jobs[job.id] = job
        self._spawn(job.id)
        return job

    def get(self, job_id: str) -> Job:
        """The job as it stands. Raises NotFoundError."""
        if job_id not in self._jobs:
            raise NotFoundError(f"no job {job_id[:80]!r}", param="id")
        return self._jobs[job_id]

    async def cancel(self, job_id: str) -> Job:
        """End the job; what it fetched is kept for a later one. No effect on a finished job. Raises NotFoundError."""
        job = self.get(job_id)
        task = self._tasks.get(job_id)
        if task is None or job.is_finished:
            return job
        task.cancel()
        await self._change(job_id, state="cancelled", phase=None, eta_s=None)
        await asyncio.wait({task})
        return self._jobs[job_id]

    async def changed(self, seen: Job, timeout_s: float) -> Job:
        """The job once it is not as `seen` any more; the same object when nothing changed for `timeout_s`.

        Raises: NotFoundError when it was forgotten.
        """
        if self.get(seen.id) is seen:
            event = self._changed.setdefault(seen.id, asyncio.Event())
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await event.wait()
        return self.get(seen.id)

    async def close(self) -> None:
        """Take no more jobs, end running children, wait until they are gone; the next `start` takes them up."""
        self._is_closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._disk.shutdown()
        self._store.close()

    def _spawn(self, job_id: str) -> None:
        task = asyncio.create_task(self._run(job_id), name=job_id)
        self._tasks[job_id] = task
        task.add_done_callback(lambda _: self._ended(job_id))

    async def _run(self, job_id: str) -> None:
        async with self._turns:
            try:
                await self._change(job_id, state="running")
                await self._work(job_id)
            except (SllmError, OSError) as error:
                failure = error if isinstance(error, SllmError) else SllmError(str(error), source="ingest")
                await self._fail(job_id, failure.as_openai()["error"])
        job = self._jobs[job_id]
        if job.state == "done" and job.resolved is not None:
            await asyncio.to_thread(self._workplace.discard, job.resolved)

    async def _work(self, job_id: str) -> None:
        """Follow the child to its end. Raises SllmError if it ended without a result."""
        async with aclosing(run_child(self._workplace.order(self._jobs[job_id]))) as messages:
            async for message in messages:
                await self._apply(job_id, message)
        if not self._jobs[job_id].is_finished:
            raise SllmError("the job's process ended without a result", source="ingest")

    async def _apply(self, job_id: str, message: FromChild) -> None:
        if isinstance(message, Progress):
            self._jobs[job_id] = msgspec.structs.replace(
                self._jobs[job_id],
                phase=message.phase,
                done_bytes=message.done_bytes,
                total_bytes=message.total_bytes,
                bytes_per_s=message.bytes_per_s,
                eta_s=message.eta_s,
            )
            self._notify(job_id)
        elif isinstance(message, Resolved):
            await self._change(job_id, resolved=message.source)
        elif isinstance(message, Fetched):
            await self._change(job_id, fetched_bytes=message.nbytes)
        elif isinstance(message, Published):
            await self._change(job_id, origins=[message.origin])
        elif isinstance(message, Failure):
            await self._fail(job_id, message.error)
        else:
            await self._change(
                job_id, state="done", phase=None, eta_s=0.0, revision=message.revision, nbytes=message.nbytes
            )

    async def _fail(self, job_id: str, error: dict[str, object]) -> None:
        log.warning("%s (%s) failed: %s", job_id, shown(self._jobs[job_id].source), error.get("message"))
        await self._change(job_id, state="failed", phase=None, eta_s=None, error=error)

    async def _change(self, job_id: str, **changes: object) -> None:
        """Change the job, on disk and for whoever watches. A disk that is full does not keep a job from ending."""
        job = msgspec.structs.replace(self._jobs[job_id], **changes)
        self._jobs[job_id] = job
        self._notify(job_id)
        try:
            await self._on_disk(lambda: self._store.save(job))
        except SllmError as error:
            log.warning("%s: %s", job_id, error.message)

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    def _notify(self, job_id: str) -> None:
        changed = self._changed.pop(job_id, None)
        if changed is not None:
            changed.set()

    def _ended(self, job_id: str) -> None:
        del self._tasks[job_id]
        finished = [known for known in self._jobs if known not in self._tasks]
        for old in finished[: max(0, len(finished) - MAX_FINISHED_JOBS)]:
            del self._jobs[old]
            self._disk.submit(self._store.remove, old)


def _restarted(job: Job) -> Job:
    """The job as it waits again: what it had reached is counted anew."""
    return msgspec.structs.replace(
        job, state="queued", phase=None, done_bytes=0, total_bytes=0, bytes_per_s=0.0, eta_s=None, origins=[]
    )
