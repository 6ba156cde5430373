# SPDX-License-Identifier: Apache-2.0
"""Brings a model from its source to `ready`: starts the ingest job and follows it, across restarts of either side."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from serverlessllm.errors import ConflictError, NotFoundError, SllmError
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.models import Models
from serverlessllm.sdk.ingest import IngestClient
from serverlessllm.types import is_revision
from serverlessllm.wire.admin import AddModel, IngestProgress
from serverlessllm.wire.ingest import IngestRequest, Job, TargetDtype

log = logging.getLogger(__name__)

POLL_S: Final = 0.2
RETRY_S: Final = 1.0
_DTYPES: Final[dict[str, TargetDtype]] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}


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
        """Start the job and record the model. Raises ConflictError, and what the ingest service says."""
        self._models.check_free(request.name)
        job = await self._ingest.ingest(IngestRequest(source=request.source, dtype=request.dtype))
        record = await self._models.add(request, job.id)
        self._follow(record)
        return record

    def cancel(self, name: str) -> None:
        """Stop following a model that is removed."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    def _follow(self, record: ModelRecord) -> None:
        self.cancel(record.name)
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
        request = IngestRequest(source=record.source, dtype=_DTYPES.get(record.dtype or ""))
        try:
            job = await self._ingest.ingest(request)
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
        if job.state == "failed":
            message = str((job.error or {}).get("message", "the conversion failed"))
            await self._models.change(record, state="failed", error=message)
            log.warning("registration of %s failed: %s", record.name, message)
            return True
        if job.state == "done":
            await self._finish(record, job)
            return True
        self._models.progress[record.name] = IngestProgress(
            job_id=job.id, phase=job.state, done_bytes=job.done_bytes, total_bytes=job.total_bytes
        )
        self._changes.notify()
        return False

    async def _finish(self, record: ModelRecord, job: Job) -> None:
        if job.revision is None or not is_revision(job.revision):
            await self._models.change(record, state="failed", error="the conversion named no revision")
            return
        await self._models.change(
            record,
            state="ready",
            revision=job.revision,
            artifact=str(self._artifacts / job.revision),
            nbytes=job.total_bytes,
        )
        log.info("%s is ready: revision %s", record.name, job.revision)
