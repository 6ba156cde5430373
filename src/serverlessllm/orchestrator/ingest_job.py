# SPDX-License-Identifier: Apache-2.0
"""What an ingest job means for a model: the record's fields, the progress to show, the error to tell. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from serverlessllm.errors import (
    CapacityError,
    ModelLoadError,
    SllmError,
    UnsupportedCheckpointError,
    from_openai,
)
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.sources.location import Location
from serverlessllm.types import is_revision
from serverlessllm.wire.admin import IngestProgress
from serverlessllm.wire.ingest import IngestRequest, Job, TargetDtype

_DTYPES: Final[dict[str, TargetDtype]] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
_VERBS: Final = {"fetch": "fetching", "convert": "converting", "publish": "publishing"}


def request_for(record: ModelRecord) -> IngestRequest:
    """The job that brings the record's bytes: the same ones again, if they were here before.

    Who needs the source although the artifact was published got nothing right from there: it is published anew.
    """
    return IngestRequest(
        source=record.resolved or record.source,
        dtype=_DTYPES.get(record.dtype or ""),
        republish=bool(record.origins),
    )


def ready_fields(job: Job, artifacts: Path) -> dict[str, Any]:
    """Of the record of a model whose job is done. Raises ModelLoadError when the job names no revision."""
    if job.revision is None or not is_revision(job.revision):
        raise ModelLoadError("the conversion named no revision", source="ingest")
    return {
        "state": "ready",
        "revision": job.revision,
        "artifact": str(artifacts / job.revision),
        "origins": job.origins,
        "nbytes": job.nbytes,
        "resolved": job.resolved,
        "error": None,
    }


def progress_of(job: Job) -> IngestProgress:
    """For people who look at the model."""
    return IngestProgress(
        job_id=job.id,
        phase=job.phase or job.state,
        done_bytes=job.done_bytes,
        total_bytes=job.total_bytes,
        bytes_per_s=job.bytes_per_s,
        eta_s=job.eta_s,
    )


def progress_text(progress: IngestProgress) -> str:
    """For a client that waits, e.g. `fetching 12% eta 30s`."""
    text = _VERBS.get(progress.phase, "waiting to fetch")
    if progress.total_bytes:
        text += f" {100 * progress.done_bytes // progress.total_bytes}%"
    return text if progress.eta_s is None else f"{text} eta {progress.eta_s:.0f}s"


def failure_of(record: ModelRecord, job: Job) -> SllmError:
    """What a caller is told of a job that failed: a full disk and a model of an unknown kind stay what they are."""
    error = from_openai({"error": job.error or {}}, status=ModelLoadError.http_status)
    if isinstance(error, CapacityError | UnsupportedCheckpointError):
        return error
    where = Location.parse(record.source).name
    return ModelLoadError(
        f"{record.name} could not be brought from {where}: {error.message}", source="ingest"
    )
