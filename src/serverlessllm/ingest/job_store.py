# SPDX-License-Identifier: Apache-2.0
"""Jobs on disk: one small JSON file each, written aside and renamed, so that a killed service finds them again.

    <directory>/lock          held by the one service that owns the directory
    <directory>/jobs/<id>.json

Knows no work. Progress is not kept here: a job is written when its state changes.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from serverlessllm.checkpoint.staging import fsync_directory
from serverlessllm.errors import CapacityError, ConfigError, ConflictError, WireError
from serverlessllm.wire.ingest import Job, decode_job

log = logging.getLogger(__name__)

_SUFFIX: Final = ".json"
_PART: Final = ".part"


class JobStore:
    """The jobs of one service. `close` gives the directory back."""

    def __init__(self, directory: Path) -> None:
        """Take the directory. Raises ConflictError when another service has it, ConfigError when it is unusable."""
        self._jobs = directory / "jobs"
        try:
            self._jobs.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"cannot use {directory} for jobs: {error.strerror}; choose another --data-dir",
                param="data_dir",
            ) from error
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_fd)
            raise ConflictError(f"{directory} is in use by another ingest service; stop it first") from None

    def load(self) -> list[Job]:
        """Every job, the oldest first. A file that is no job (a disk that lies) is left out and told of."""
        found: list[Job] = []
        for path in self._jobs.iterdir():
            if path.suffix != _SUFFIX:
                path.unlink(missing_ok=True)  # written aside by a service that was killed
                continue
            try:
                found.append(decode_job(path.read_bytes()))
            except WireError as error:
                log.warning("%s is left out: %s", path, error.message)
        return sorted(found, key=lambda job: (job.created_at_s, job.id))

    def save(self, job: Job) -> None:
        """Make the job's state durable. Raises CapacityError when the disk is full."""
        part = self._jobs / f"{job.id}{_PART}"
        try:
            with part.open("wb") as file:
                file.write(msgspec.json.encode(job))
                file.flush()
                os.fsync(file.fileno())
            part.rename(self._path(job.id))
            fsync_directory(self._jobs)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise CapacityError(
                f"cannot write a job to {self._jobs}: {error.strerror}", source="ingest"
            ) from error

    def remove(self, job_id: str) -> None:
        """Forget a job. Removing twice is no error."""
        self._path(job_id).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another service take the directory."""
        os.close(self._lock_fd)

    def _path(self, job_id: str) -> Path:
        return self._jobs / f"{job_id}{_SUFFIX}"
