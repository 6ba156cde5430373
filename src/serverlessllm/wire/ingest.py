# SPDX-License-Identifier: Apache-2.0
"""Client ⇄ ingest service, and ingest service ⇄ its conversion child (JSON lines on the child's stdout).

Knows no format and no HTTP server.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from serverlessllm.errors import InvalidRequestError, WireError

TargetDtype = Literal["float32", "bfloat16", "float16"]
JobState = Literal["queued", "running", "done", "failed"]
"""queued: waits for a free child · running: a child converts · done: `revision` is there · failed: `error` is."""

SECRET_HEADER: Final = "x-sllm-secret"  # a header's name, not a secret
MAX_SOURCE_BYTES: Final = 4096


class IngestRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /ingest` and `POST /convert`. `source` is an absolute local path; `dtype` null keeps floats."""

    source: str
    dtype: TargetDtype | None = None


class Job(msgspec.Struct, frozen=True):
    """One conversion, as `GET /jobs/{id}` answers it. `error` is the inner object of OpenAI's error shape."""

    id: str
    state: JobState
    source: str
    dtype: TargetDtype | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    eta_s: float | None = None
    revision: str | None = None
    error: dict[str, object] | None = None


class ConvertProgress(msgspec.Struct, frozen=True, tag_field="kind", tag="progress"):
    """Child → service, at most ten times a second. Bytes of tensors written; `eta_s` None: not known yet."""

    done_bytes: int
    total_bytes: int
    eta_s: float | None = None


class ConvertReport(msgspec.Struct, frozen=True, tag_field="kind", tag="done"):
    """Child → service, last: the artifact is durable in `directory`."""

    revision: str
    directory: str
    nbytes: int
    num_tensors: int
    seconds: float


class ConvertFailure(msgspec.Struct, frozen=True, tag_field="kind", tag="error"):
    """Child → service, last: nothing was left behind. `error` is the inner object of OpenAI's error shape."""

    error: dict[str, object]


FromConvert = ConvertProgress | ConvertReport | ConvertFailure

_request: Final = msgspec.json.Decoder(IngestRequest)
_job: Final = msgspec.json.Decoder(Job)
_from_convert: Final[msgspec.json.Decoder[FromConvert]] = msgspec.json.Decoder(FromConvert)


def decode_request(body: bytes) -> IngestRequest:
    """Raises InvalidRequestError naming the field."""
    try:
        request = _request.decode(body)
    except msgspec.MsgspecError as error:
        raise InvalidRequestError(f"malformed body: {error}") from error
    if not request.source.startswith("/") or "\0" in request.source:
        raise InvalidRequestError("source: expected an absolute local path", param="source")
    if len(request.source.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
        raise InvalidRequestError(f"source: longer than {MAX_SOURCE_BYTES} bytes", param="source")
    return request


def decode_job(body: bytes) -> Job:
    """Raises WireError for anything but a job."""
    try:
        return _job.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(f"malformed job: {error}", source="ingest") from error


def decode_convert_line(line: bytes) -> FromConvert:
    """One line of a conversion child. Raises WireError for anything else."""
    try:
        return _from_convert.decode(line)
    except msgspec.MsgspecError as error:
        raise WireError(f"malformed line from a conversion: {error}", source="ingest") from error
