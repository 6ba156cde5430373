# SPDX-License-Identifier: Apache-2.0
"""Brings a model from its source to `ready`: starts the ingest job and follows it, across restarts of either side."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

from serverlessllm.errors import (
    CheckpointError,
    ConflictError,
    InvalidRequestError,
    ModelLoadError,
    NotFoundError,
    SllmError,
)
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.adapter_rules import check_addition
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.ingest_job import progress_of, ready_fields, request_for
from serverlessllm.orchestrator.models import Models
from serverlessllm.sdk.ingest import IngestClient
from serverlessllm.sources.location import Location
from serverlessllm.types import base_name
from serverlessllm.wire.admin import AddModel
from serverlessllm.wire.ingest import IngestRequest, Job

log = logging.getLogger(__name__)

POLL_S: Final = 0.2
RETRY_S: Final = 1.0


class Registrations:
    """One task per model that is being registered."""

    def __init__(self, models: Models, ingest: IngestClient, artifacts: Path, changes: Changes) -> None:
        self._models = models
        self._ingest = ingest
        self._artifacts = artifacts
        self._changes = changes
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def resume(self) -> None:
        """Follow what was under way when we last stopped."""
        for record in self._models.all():
            if record.state == "registering":
                self._follow(record)

    async def stop(self) -> None:
        """Stop following; the jobs go on and are found again after a restart."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def add(self, request: AddModel) -> ModelRecord:
        """Start the job and record the model; a lazy one is recorded alone.

        Raises: InvalidRequestError, ConflictError, and what the ingest service says.
        """
        self._models.check_free(request.name)
        base = base_name(request.name)
        check_addition(request, self._models.find(base))
        is_local = _check_source(request.source).kind == "path" or base != request.name
        if request.lazy if request.lazy is not None else not is_local:
            return await self._models.add(request, None)
        job = await self._ingest.ingest(IngestRequest(source=request.source, dtype=request.dtype))
        record = await self._models.add(request, job.id)
        self._follow(record)
        return record

    async def abandon(self, record: ModelRecord) -> None:
        """The model was removed: stop following, and end its job unless it is another model's too."""
        self._unfollow(record.name)
        is_shared = any(other.job_id == record.job_id for other in self._models.all())
        if record.state == "registering" and record.job_id is not None and not is_shared:
            with suppress(SllmError):  # it has ended, or the service is away: then it does no work either
                await self._ingest.cancel(record.job_id)

    def _unfollow(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    def _follow(self, record: ModelRecord) -> None:
        self._unfollow(record.name)
        task = asyncio.create_task(self._run(record), name=f"register {record.name}")
        self._tasks[record.name] = task
        task.add_done_callback(lambda done: self._ended(record.name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
            self._models.progress.pop(name, None)

    async def _run(self, record: ModelRecord) -> None:
        while True:
            try:
                if await self._step(record):
                    return
            except ConflictError:
                return  # the record was removed or replaced: its follower is another one
            except NotFoundError:
                record = await self._start_again(record)
            except SllmError as error:
                log.warning("registration of %s: %s; trying again", record.name, error.message)
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(POLL_S)

    async def _start_again(self, record: ModelRecord) -> ModelRecord:
        """The service forgot the job (it restarted): a conversion leaves nothing half done, so begin anew."""
        try:
            job = await self._ingest.ingest(request_for(record))
            return await self._models.change(record, job_id=job.id)
        except SllmError as error:
            if error.retryable:
                return record
            return await self._models.change(record, state="failed", error=error.message)

    async def _step(self, record: ModelRecord) -> bool:
        """Look at the job once; True when the registration has ended."""
        if record.state != "registering":
            return True
        job = await self._ingest.job(record.job_id or "none")
        if job.state in ("failed", "cancelled"):
            message = str((job.error or {}).get("message", "the job was cancelled"))
            await self._models.change(record, state="failed", error=message)
            log.warning("registration of %s failed: %s", record.name, message)
            return True
        if job.state == "done":
            await self._finish(record, job)
            return True
        self._models.progress[record.name] = progress_of(job)
        self._changes.notify()
        return False

    async def _finish(self, record: ModelRecord, job: Job) -> None:
        try:
            fields = ready_fields(job, self._artifacts)
        except ModelLoadError as error:
            fields = {"state": "failed", "error": error.message}
        await self._models.change(record, **fields)
        log.info("%s is %s: revision %s", record.name, fields["state"], job.revision)


def _check_source(source: str) -> Location:
    """Where it lies. Raises InvalidRequestError naming the field."""
    try:
        location = Location.parse(source)
    except (CheckpointError, InvalidRequestError) as error:
        raise InvalidRequestError(f"source: {error.message}", param="source") from error
    if location.kind == "path" and not Path(location.root).is_absolute():
        raise InvalidRequestError(
            f"source: {source[:200]!r} is not here; write an absolute path on the server, org/name or "
            "hf://org/name[@revision], s3://bucket/prefix, or an http(s) URL",
            param="source",
        )
    return location
