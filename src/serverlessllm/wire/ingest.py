# SPDX-License-Identifier: Apache-2.0
"""Client ⇄ ingest service, and ingest service ⇄ the child that does a job's work (JSON lines on its stdout).

Knows no format and no HTTP server.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from serverlessllm.errors import InvalidRequestError, WireError

TargetDtype = Literal["float32", "bfloat16", "float16"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
"""queued: waits for a free child · running: a child works · done: `revision` is there · failed: `error` is ·
cancelled: somebody asked for its end; what was fetched is kept for a later job of the same source."""
JobPhase = Literal["fetch", "convert", "publish"]
"""fetch: the source's files come to our disk · convert: they become an artifact · publish: it goes to S3."""

SECRET_HEADER: Final = "x-sllm-secret"  # a header's name, not a secret
MAX_SOURCE_BYTES: Final = 4096
FINISHED: Final[tuple[JobState, ...]] = ("done", "failed", "cancelled")


class IngestRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /ingest` and `POST /convert`.

    `source`: an absolute path on the service's machine; for `/ingest` also `hf://org/name[@revision]`,
    `s3://bucket/prefix` and http(s) URLs. `dtype` null keeps floats. `publish`: `s3://bucket/prefix` under which the
    artifact is also stored, as `<revision>/`; null takes the service's `ingest.publish`. `republish`: a copy that is
    there already is not trusted but written anew.
    """

    source: str
    dtype: TargetDtype | None = None
    publish: str | None = None
    republish: bool = False


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job, as `GET /jobs/{id}` answers it, and as it is kept on disk.

    `done_bytes` of `total_bytes` (0: not known yet) count the current `phase`, at `bytes_per_s`. `resolved` is the
    source with its moving parts pinned (a hub branch became a commit). Once done: `nbytes` are those of the weights,
    `origins` the places where the artifact was published. `fetched_bytes` came over the network for this job.
    `error` is the inner object of OpenAI's error shape.
    """

    id: str
    state: JobState
    source: str
    dtype: TargetDtype | None = None
    publish: str | None = None
    republish: bool = False
    created_at_s: float = 0.0
    phase: JobPhase | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: float = 0.0
    eta_s: float | None = None
    resolved: str | None = None
    fetched_bytes: int = 0
    revision: str | None = None
    nbytes: int = 0
    origins: list[str] = []
    error: dict[str, object] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in FINISHED


class Progress(msgspec.Struct, frozen=True, tag_field="kind", tag="progress"):
    """Child → service, at most ten times a second. `eta_s` None: not known yet."""

    done_bytes: int
    total_bytes: int
    eta_s: float | None = None
    phase: JobPhase = "convert"
    bytes_per_s: float = 0.0


class Resolved(msgspec.Struct, frozen=True, tag_field="kind", tag="resolved"):
    """Child → service, before the first byte is fetched: what the source means now; see `Job.resolved`."""

    source: str


class Fetched(msgspec.Struct, frozen=True, tag_field="kind", tag="fetched"):
    """Child → service: the source's files are whole on our disk; `nbytes` of them came over the network now."""

    nbytes: int


class Published(msgspec.Struct, frozen=True, tag_field="kind", tag="published"):
    """Child → service: the artifact is whole at `origin` too."""

    origin: str


class ConvertReport(msgspec.Struct, frozen=True, tag_field="kind", tag="done"):
    """Child → service, last: the artifact is durable in `directory`. `nbytes` is the size of its weights."""

    revision: str
    directory: str
    nbytes: int
    num_tensors: int
    seconds: float


class Failure(msgspec.Struct, frozen=True, tag_field="kind", tag="error"):
    """Child → service, last: no artifact came of it. `error` is the inner object of OpenAI's error shape."""

    error: dict[str, object]


FromChild = Progress | Resolved | Fetched | Published | ConvertReport | Failure

_request: Final = msgspec.json.Decoder(IngestRequest)
_job: Final = msgspec.json.Decoder(Job)
_from_child: Final[msgspec.json.Decoder[FromChild]] = msgspec.json.Decoder(FromChild)


def decode_request(body: bytes) -> IngestRequest:
    """What is wrong whatever the service can do. Raises InvalidRequestError naming the field."""
    try:
        request = _request.decode(body)
    except msgspec.MsgspecError as error:
        raise InvalidRequestError(f"malformed body: {error}") from error
    _check_text("source", request.source)
    if request.publish is not None:
        _check_text("publish", request.publish)
    return request


def _check_text(field: str, text: str) -> None:
    if not text or "\0" in text:
        raise InvalidRequestError(f"{field}: must be a text without NUL", param=field)
    if len(text.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
        raise InvalidRequestError(f"{field}: longer than {MAX_SOURCE_BYTES} bytes", param=field)


def decode_job(body: bytes) -> Job:
    """Raises WireError for anything but a job."""
    try:
        return _job.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(f"malformed job: {error}", source="ingest") from error


def decode_child_line(line: bytes) -> FromChild:
    """One line of a job's child. Raises WireError for anything else."""
    try:
        return _from_child.decode(line)
    except msgspec.MsgspecError as error:
        raise WireError(f"malformed line from a job: {error}", source="ingest") from error
