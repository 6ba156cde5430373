# SPDX-License-Identifier: Apache-2.0
"""Conversions as jobs: each one child process, a bounded number at once, equal requests merged.

Knows no HTTP, and no format: it starts `python -m serverlessllm.ingest.convert` and reads its lines. One event
loop owns everything here.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Final

import msgspec

from serverlessllm.errors import NotFoundError, QueueFullError, ShuttingDownError, SllmError
from serverlessllm.types import mint_id
from serverlessllm.wire.ingest import (
    ConvertFailure,
    ConvertProgress,
    FromConvert,
    IngestRequest,
    Job,
    decode_convert_line,
)

MAX_WAITING_JOBS: Final = 256
MAX_FINISHED_JOBS: Final = 1024
"""Finished jobs that are remembered; the oldest are forgotten first."""
_MAX_LINE_BYTES: Final = 1 << 20
_STDERR_TAIL_BYTES: Final = 4096
_TERMINATE_TIMEOUT_S: Final = 10.0


class Jobs:
    """All jobs of one ingest service. `close` ends what runs; each child removes what it has not finished."""

    def __init__(self, artifacts_dir: Path, max_jobs: int) -> None:
        self._artifacts_dir = artifacts_dir
        self._turns = asyncio.Semaphore(max_jobs)
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    def submit(self, request: IngestRequest) -> Job:
        """Start a job, or join the unfinished one of an equal request.

        Raises: QueueFullError, ShuttingDownError.
        """
        if self._is_closed:
            raise ShuttingDownError("the ingest service is stopping", source="ingest")
        for job_id in self._tasks:
            job = self._jobs[job_id]
            if (job.source, job.dtype) == (request.source, request.dtype):
                return job
        if len(self._tasks) >= MAX_WAITING_JOBS:
            raise QueueFullError(f"{len(self._tasks)} jobs wait already", source="ingest", retry_after_s=10.0)
        job = Job(id=mint_id("job"), state="queued", source=request.source, dtype=request.dtype)
        self._jobs[job.id] = job
        task = asyncio.create_task(self._run(job.id), name=job.id)
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._forget_old(job.id))
        return job

    def get(self, job_id: str) -> Job:
        """The job as it stands. Raises NotFoundError."""
        if job_id not in self._jobs:
            raise NotFoundError(f"no job {job_id[:80]!r}", param="id")
        return self._jobs[job_id]

    async def close(self) -> None:
        """Take no more jobs, end running children, wait until they are gone."""
        self._is_closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job_id: str) -> None:
        async with self._turns:
            self._change(job_id, state="running")
            try:
                await self._convert(job_id)
            except (SllmError, OSError) as error:
                failure = error if isinstance(error, SllmError) else SllmError(str(error), source="ingest")
                self._change(job_id, state="failed", error=failure.as_openai()["error"])

    async def _convert(self, job_id: str) -> None:
        job = self._jobs[job_id]
        command = [sys.executable, "-m", "serverlessllm.ingest.convert", job.source, str(self._artifacts_dir)]
        if job.dtype is not None:
            command += ["--dtype", job.dtype]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=PIPE, stderr=PIPE, limit=_MAX_LINE_BYTES
        )
        try:
            await self._follow(job_id, process)
        finally:
            await _end(process)

    async def _follow(self, job_id: str, process: Process) -> None:
        """Apply the child's lines until it closes its output. Raises SllmError if it ended without a result."""
        tail = asyncio.create_task(_read_tail(process.stderr))
        async for line in _reader(process.stdout):
            self._apply(job_id, decode_convert_line(line))
        code = await process.wait()
        last_words = (await tail).strip().splitlines()
        if self._jobs[job_id].state == "running":
            reason = last_words[-1] if last_words else "no message"
            raise SllmError(f"the conversion ended with exit code {code}: {reason}", source="ingest")

    def _apply(self, job_id: str, message: FromConvert) -> None:
        if isinstance(message, ConvertProgress):
            self._change(
                job_id,
                done_bytes=message.done_bytes,
                total_bytes=message.total_bytes,
                eta_s=message.eta_s,
            )
        elif isinstance(message, ConvertFailure):
            self._change(job_id, state="failed", eta_s=None, error=message.error)
        else:
            self._change(job_id, state="done", eta_s=0.0, revision=message.revision)

    def _change(self, job_id: str, **changes: object) -> None:
        self._jobs[job_id] = msgspec.structs.replace(self._jobs[job_id], **changes)

    def _forget_old(self, job_id: str) -> None:
        del self._tasks[job_id]
        finished = [known for known in self._jobs if known not in self._tasks]
        for old in finished[: max(0, len(finished) - MAX_FINISHED_JOBS)]:
            del self._jobs[old]


def _reader(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    if stream is None:
        raise SllmError("the conversion was started without pipes", source="ingest")
    return stream


async def _read_tail(stream: asyncio.StreamReader | None) -> str:
    """Drain the stream, keeping its end."""
    tail = b""
    while piece := await _reader(stream).read(_STDERR_TAIL_BYTES):
        tail = (tail + piece)[-_STDERR_TAIL_BYTES:]
    return tail.decode("utf-8", "replace")


async def _end(process: Process) -> None:
    """Ask the child to end, by its pid; insist after a while."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _TERMINATE_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
