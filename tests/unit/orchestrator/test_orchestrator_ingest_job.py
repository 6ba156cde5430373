# SPDX-License-Identifier: Apache-2.0
"""What a job means for a model: texts for those who wait, errors by kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverlessllm.errors import CapacityError, ModelLoadError, SllmError, UnsupportedCheckpointError
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.ingest_job import failure_of, progress_text, ready_fields, request_for
from serverlessllm.wire.admin import IngestProgress
from serverlessllm.wire.ingest import Job

RECORD = ModelRecord(
    name="m", state="remote", engine="torch", source="https://host/m?signature=s", created_at_s=0.0
)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (IngestProgress("j", "fetch", 12, 100, eta_s=30.4), "fetching 12% eta 30s"),
        (IngestProgress("j", "convert", 40, 100), "converting 40%"),
        (IngestProgress("j", "publish", 0, 0), "publishing"),
        (IngestProgress("j", "queued", 0, 0), "waiting to fetch"),
    ],
)
def test_waiting_clients_are_told(progress: IngestProgress, text: str) -> None:
    assert progress_text(progress) == text


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("no_capacity", CapacityError),
        ("unsupported_checkpoint", UnsupportedCheckpointError),
        ("corrupt_checkpoint", ModelLoadError),
        ("permission_denied", ModelLoadError),
    ],
)
def test_failure_keeps_its_kind_and_no_signature(code: str, kind: type[SllmError]) -> None:
    job = Job(id="j", state="failed", source="", error={"message": "why", "code": code})
    failure = failure_of(RECORD, job)
    assert type(failure) is kind
    assert "why" in failure.message and "signature" not in failure.message


def test_bytes_that_were_here_before_are_asked_for_again_exactly() -> None:
    assert request_for(RECORD).source == RECORD.source
    again = ModelRecord(
        name="m", state="remote", engine="torch", source="hf://o/m", created_at_s=0.0, resolved="hf://o/m@1"
    )
    assert request_for(again).source == "hf://o/m@1"


def test_published_copy_that_gave_nothing_right_is_written_anew() -> None:
    lost = ModelRecord(
        name="m", state="remote", engine="torch", source="/m", created_at_s=0.0, origins=["s3://b/r"]
    )
    assert request_for(lost).republish and not request_for(RECORD).republish


def test_done_job_without_a_revision_is_an_error() -> None:
    with pytest.raises(ModelLoadError, match="no revision"):
        ready_fields(Job(id="j", state="done", source=""), Path("/a"))
