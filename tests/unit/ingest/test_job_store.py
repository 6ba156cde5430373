# SPDX-License-Identifier: Apache-2.0
"""Jobs on disk: found again in order, whole or not at all, by one service at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverlessllm.errors import ConfigError, ConflictError
from serverlessllm.ingest.job_store import JobStore
from serverlessllm.wire.ingest import Job


def _job(number: int, **fields: object) -> Job:
    return Job(id=f"job-{number}", state="queued", source="/a", created_at_s=float(number), **fields)  # type: ignore[arg-type]


def test_jobs_are_found_again_the_oldest_first(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    for number in (3, 1, 2):
        store.save(_job(number))
    store.save(_job(1, revision="f" * 32))
    store.remove("job-2")
    store.close()
    again = JobStore(tmp_path)
    assert [(job.id, job.revision) for job in again.load()] == [("job-1", "f" * 32), ("job-3", None)]
    again.close()


def test_half_written_and_damaged_files_are_left_out(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.save(_job(1))
    (tmp_path / "jobs" / "job-2.part").write_text('{"id": "jo')
    (tmp_path / "jobs" / "job-3.json").write_text('{"id": "jo')
    assert [job.id for job in store.load()] == ["job-1"]
    assert not (tmp_path / "jobs" / "job-2.part").exists()
    store.close()


def test_second_service_on_the_directory_is_refused(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    with pytest.raises(ConflictError, match="in use"):
        JobStore(tmp_path)
    store.close()
    JobStore(tmp_path).close()


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--data-dir"):
        JobStore(tmp_path / "file")
