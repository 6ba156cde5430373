# SPDX-License-Identifier: Apache-2.0
"""Bytes on demand: a model whose artifact is not here is fetched and converted while its callers wait.

    state     → entered by                        what a waiter sees
    running   → the first `join` of a model       what the job is doing, in a few words
    settled   → the artifact is there, or not     the record, or the error
    cancelled → the last waiter left              nobody is there to see it; the ingest service keeps what arrived

One job per model, shared by requests that wake it and by `sllm model pull`. Knows no agents and no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from serverlessllm.errors import (
    ConflictError,
    ModelNotFoundError,
    NotFoundError,
    QueueFullError,
    ShuttingDownError,
    SllmError,
    UnreachableError,
)
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.ingest_job import (
    failure_of,
    progress_of,
    progress_text,
    ready_fields,
    request_for,
)
from serverlessllm.orchestrator.models import Models
from serverlessllm.sdk.ingest import IngestClient
from serverlessllm.wire.ingest import Job

log = logging.getLogger(__name__)

REPORT_EVERY_S: Final = 0.2
RETRY_S: Final = 0.5
_LATER: Final = (QueueFullError, ShuttingDownError, UnreachableError)
"""Says nothing against the source: the waiters' deadlines bound how often."""


class Report(Protocol):
    """Takes what is going on, for those who wait; another `done_bytes` than before is progress."""

    def __call__(self, text: str, *, done_bytes: int = 0) -> None: ...


class Fetch:
    """One model's bytes on their way; get it from `Fetches.join`."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.num_waiters = 0
        self.job: Job | None = None
        self.text = "waiting for the ingest service"
        self.task: asyncio.Task[ModelRecord] | None = None
        self.cancelled_by: SllmError | None = None
        self.is_ending = False

    def result(self) -> ModelRecord:
        """Of a settled one. Raises its error."""
        if self.task is None or self.task.cancelled():
            raise self.cancelled_by or ShuttingDownError(
                f"the fetch of {self.model} was cancelled; try again"
            )
        error = self.task.exception()
        if isinstance(error, SllmError):
            raise error.with_traceback(None)
        return self.task.result()


class Fetches:
    """Model → its running fetch."""

    def __init__(self, models: Models, ingest: IngestClient, artifacts: Path, changes: Changes) -> None:
        self._models = models
        self._ingest = ingest
        self._artifacts = artifacts
        self._changes = changes
        self._running: dict[str, Fetch] = {}

    async def join(self, model: str, report: Report) -> ModelRecord:
        """The model's record once its artifact is here: starts the fetch, or shares the one that runs.

        Cancelling this leaves it; the last to leave stops it. Raises: ModelNotFoundError; ModelLoadError when the
        source cannot be had; CapacityError when the disk is full; UnsupportedCheckpointError.
        """
        fetch = self._running.get(model)
        if fetch is None:
            fetch = self._running[model] = self._start(model)
        fetch.num_waiters += 1
        try:
            while fetch.task is not None and not fetch.task.done():
                report(fetch.text, done_bytes=0 if fetch.job is None else fetch.job.done_bytes)
                await asyncio.wait({fetch.task}, timeout=REPORT_EVERY_S)
            return fetch.result()
        finally:
            fetch.num_waiters -= 1
            if fetch.num_waiters == 0:
                self._end(fetch)

    async def lost(self, record: ModelRecord) -> None:
        """The artifact of a ready model is damaged or gone: its bytes are to be brought again."""
        log.warning("the artifact of %s (%s) is lost; it is fetched again", record.name, record.revision)
        with suppress(ConflictError):  # somebody else saw it too
            await self._models.change(record, state="remote", revision=None, artifact=None, job_id=None)

    def is_busy(self) -> bool:
        """Whether a fetch runs that may be about to find any artifact."""
        return bool(self._running)

    def cancel(self, model: str, error: SllmError) -> None:
        """End the model's fetch, if one runs: its waiters get `error`."""
        fetch = self._running.get(model)
        if fetch is not None:
            fetch.cancelled_by = error
            self._end(fetch)

    async def stop(self) -> None:
        """Cancel every fetch; its waiters get ShuttingDownError."""
        fetches = list(self._running.values())
        for fetch in fetches:
            self._end(fetch)
        await asyncio.gather(*(fetch.task for fetch in fetches if fetch.task), return_exceptions=True)

    def _start(self, model: str) -> Fetch:
        fetch = Fetch(model)
        fetch.task = asyncio.create_task(self._run(fetch), name=f"fetch {model}")
        fetch.task.add_done_callback(lambda _: self._forget(fetch))
        return fetch

    def _end(self, fetch: Fetch) -> None:
        self._forget(fetch)
        if fetch.task is not None and not fetch.is_ending:
            fetch.is_ending = True  # once: a second cancellation would keep it from ending its job
            fetch.task.cancel()

    def _forget(self, fetch: Fetch) -> None:
        if self._running.get(fetch.model) is fetch:
            del self._running[fetch.model]
            self._models.progress.pop(fetch.model, None)

    async def _run(self, fetch: Fetch) -> ModelRecord:
        try:
            while True:
                record = self._models.get(fetch.model)
                if record.state == "ready":
                    return record
                try:
                    brought = await self._bring(fetch, record)
                except ConflictError:
                    continue  # the record was changed meanwhile: look again
                except (NotFoundError, *_LATER) as error:
                    log.info("fetch of %s: %s; trying again", fetch.model, error.message)
                    await asyncio.sleep(RETRY_S)
                    continue
                if brought is not None:
                    return brought
        except (asyncio.CancelledError, ModelNotFoundError):
            await self._abandon(fetch)
            raise

    async def _bring(self, fetch: Fetch, record: ModelRecord) -> ModelRecord | None:
        """Follow the record's job to its end; None when somebody else cancelled it."""
        fetch.job = await self._begun(fetch, record)
        if record.job_id != fetch.job.id:
            # Whoever comes after us, after a restart too, finds the job and what it has done.
            record = await self._models.change(record, job_id=fetch.job.id)
        async for job in self._ingest.follow(fetch.job.id):
            fetch.job = job
            self._models.progress[record.name] = progress = progress_of(job)
            fetch.text = progress_text(progress)
            self._changes.notify()
        if fetch.job.state == "cancelled":
            return None
        if fetch.job.state == "failed":
            failure = failure_of(record, fetch.job)
            await self._models.change(record, error=failure.message, job_id=None)
            raise failure
        record = await self._models.change(record, **ready_fields(fetch.job, self._artifacts))
        log.info("%s is here: revision %s", record.name, record.revision)
        return record

    async def _begun(self, fetch: Fetch, record: ModelRecord) -> Job:
        """`_job_of`, whose answer is heard even when we are cancelled: a job that was accepted must be ended."""
        asking = asyncio.ensure_future(self._job_of(record))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            with suppress(SllmError):
                fetch.job = await asking
            raise

    async def _job_of(self, record: ModelRecord) -> Job:
        """The job that an earlier waiter began, if it runs or is done; else a new one."""
        if record.job_id is not None:
            with suppress(NotFoundError):
                job = await self._ingest.job(record.job_id)
                if not job.is_finished or job.state == "done":
                    return job
        return await self._ingest.ingest(request_for(record))

    async def _abandon(self, fetch: Fetch) -> None:
        """Nobody waits any more: end the job, unless it is another model's too."""
        job = fetch.job
        if job is None or any(other.job and other.job.id == job.id for other in self._running.values()):
            return
        with suppress(SllmError):  # it is away: then it does no work either
            await self._ingest.cancel(job.id)
