# SPDX-License-Identifier: Apache-2.0
"""Every error that crosses one of our borders, in one tree.

    SllmError
    ├── RequestError                 the caller sent something wrong; a retry cannot help
    │   ├── InvalidRequestError      400  a field is malformed; `param` names it
    │   ├── UnsupportedFieldError    400  a field that this platform does not implement
    │   ├── ContextLengthError       400  prompt and max_tokens exceed the model's context
    │   ├── InsufficientMemoryError  400  larger than every node
    │   ├── AuthenticationError      401  no key, or an unknown one
    │   ├── PermissionDeniedError    403  the key's role, the Host or the Origin does not allow it
    │   ├── NotFoundError            404  unknown model, request, key or path
    │   ├── MethodNotAllowedError    405
    │   ├── ConflictError            409  a name is taken, or a compare-and-swap was lost
    │   ├── AnswerGoneError          410  the rest of a cut answer is not kept any more: ask anew
    │   ├── PayloadTooLargeError     413
    │   └── UnsupportedMediaTypeError 415
    ├── ServiceError                 our side; `retryable` says whether the same call may succeed
    │   ├── QueueFullError           429  with Retry-After
    │   ├── WorkerLostError          502  the engine died before the first byte, and so did the retries
    │   ├── ModelLoadError           502  the model could not be loaded on any node
    │   ├── NoAgentError             503  no agent joined within the hold deadline
    │   ├── ShuttingDownError        503
    │   ├── HoldDeadlineError        504  the model did not wake within the hold deadline
    │   │   └── RequestDeadlineError 504  the caller's own deadline passed
    │   ├── ReplicaGoneError         409  (agent → orchestrator) unbound meanwhile: place again
    │   ├── StaleAttemptError        409  (agent → orchestrator) a newer attempt owns the replica
    │   ├── MigrationRefusedError    409  a request cannot move, or not to there; it runs on where it is
    │   ├── CannotResumeError        409  (agent → orchestrator) another prompt or text than the cut stream's
    │   ├── EngineError              500  an engine reported a failure of its own
    │   ├── UnreachableError         503  (in a client) no server answers at the address
    │   │   └── StalledError              (in a client) the connection is there, but no byte comes
    │   │   └── CertificateError     503  (in a client) TLS failed: a certificate is wrong, and says which
    │   └── MetadataUnavailableError 503  the metadata store cannot be reached
    ├── CheckpointError              400  a checkpoint is not what it claims; `param` names where
    │   ├── CheckpointFormatError         structure: magic, version, overlap, names, sizes, …
    │   ├── CorruptDataError              bytes differ from their digest
    │   └── UnsupportedCheckpointError    valid, but of a kind that we do not read or run
    ├── CapacityError                503  no room in the arena or on disk now
    ├── WireError                    400  a frame or event between our own processes is malformed
    │   └── WireVersionError     400  the other process is of a version that we do not understand
    └── ConfigError                  400  a setting is unknown or out of range

Each class is one decision that a caller can take. HTTP bodies have OpenAI's shape (`as_openai`).
"""

from __future__ import annotations

from typing import Any, ClassVar


class SllmError(Exception):
    """Root of the tree.

    `message` says what happened, where, and what to do. `param` names the offending request field.
    `source` is the part that failed: client, orchestrator, agent, engine or ingest.
    """

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    openai_type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        source: str = "orchestrator",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.source = source
        self.retry_after_s = retry_after_s

    def as_openai(self) -> dict[str, Any]:
        """The error body that OpenAI clients parse: `{"error": {message, type, param, code, …}}`."""
        return {
            "error": {
                "message": self.message,
                "type": self.openai_type,
                "param": self.param,
                "code": self.code,
                "source": self.source,
                "retryable": self.retryable,
            }
        }


class RequestError(SllmError):
    """The caller's request is at fault."""

    code = "invalid_request"
    http_status = 400
    openai_type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, source: str = "client") -> None:
        super().__init__(message, param=param, source=source)


class InvalidRequestError(RequestError):
    """A field is missing, of the wrong type, or out of range."""


class UnsupportedFieldError(RequestError):
    """A field that exists in the API but that this platform does not implement; never ignored."""

    code = "unsupported_parameter"


class ContextLengthError(RequestError):
    """Prompt plus requested tokens exceed the model's context."""

    code = "context_length_exceeded"


class InsufficientMemoryError(RequestError):
    """The model is larger than every node's budget."""

    code = "insufficient_memory"


class AuthenticationError(RequestError):
    """No API key, or one that is unknown or revoked."""

    code = "invalid_api_key"
    http_status = 401
    openai_type = "authentication_error"


class PermissionDeniedError(RequestError):
    """The key's role, the Host or the Origin does not allow this call."""

    code = "permission_denied"
    http_status = 403
    openai_type = "permission_error"


class NotFoundError(RequestError):
    """The named model, request, key or path does not exist."""

    code = "not_found"
    http_status = 404


class ModelNotFoundError(NotFoundError):
    """No model of that name is registered."""

    code = "model_not_found"


class MethodNotAllowedError(RequestError):
    """The path exists, the method does not."""

    code = "method_not_allowed"
    http_status = 405


class ConflictError(RequestError):
    """The name is taken, or another writer was faster."""

    code = "conflict"
    http_status = 409


class AnswerGoneError(RequestError):
    """The rest of a cut stream is nowhere any more: it ended, was cancelled, or nobody came back in time."""

    code = "answer_gone"
    http_status = 410


class PayloadTooLargeError(RequestError):
    """Body, header or field above its bound."""

    code = "payload_too_large"
    http_status = 413


class UnsupportedMediaTypeError(RequestError):
    """State changes take `application/json` only."""

    code = "unsupported_media_type"
    http_status = 415


class ServiceError(SllmError):
    """Our side is at fault; `retryable` says whether the same call may succeed later or elsewhere."""

    retryable = True


class QueueFullError(ServiceError):
    """A bounded queue is full; the answer carries Retry-After."""

    code = "queue_full"
    http_status = 429
    openai_type = "rate_limit_error"


class WorkerLostError(ServiceError):
    """The engine worker died; before the first byte the request is retried silently."""

    code = "worker_lost"
    http_status = 502


class ModelLoadError(ServiceError):
    """The model could not be loaded."""

    code = "model_load_failed"
    http_status = 502


class NoAgentError(ServiceError):
    """No agent that could run the model appeared within the hold deadline."""

    code = "no_agent"
    http_status = 503


class ShuttingDownError(ServiceError):
    """The process is stopping and takes no new work."""

    code = "shutting_down"
    http_status = 503


class MetadataUnavailableError(ServiceError):
    """The metadata store cannot be reached; routing goes on with the last view."""

    code = "metadata_unavailable"
    http_status = 503


class UnreachableError(ServiceError):
    """In a client of ours: no server answers at the address, or the connection broke."""

    code = "unreachable"
    http_status = 503


class CertificateError(UnreachableError):
    """In a client of ours: TLS failed. The message says whose certificate is wrong and what to do."""

    code = "certificate_error"


class StalledError(UnreachableError):
    """In a client of ours: an answer that had begun went silent for longer than is waited for."""

    code = "stalled"


class HoldDeadlineError(ServiceError):
    """The model did not wake within the hold deadline, or the request's own deadline passed."""

    code = "hold_deadline_exceeded"
    http_status = 504


class RequestDeadlineError(HoldDeadlineError):
    """The deadline that the caller set with `x-request-timeout` or `x-ttft-timeout` passed; `param` says which."""

    code = "request_deadline_exceeded"


class ReplicaGoneError(ServiceError):
    """Agent → orchestrator: the replica was unbound meanwhile; place the request again."""

    code = "replica_gone"
    http_status = 409


class StaleAttemptError(ServiceError):
    """Agent → orchestrator: a newer attempt owns this replica; the caller's view is old."""

    code = "stale_attempt"
    http_status = 409
    retryable = False


class MigrationRefusedError(ServiceError):
    """A running request cannot move, or not to there. It runs on where it is."""

    code = "migration_refused"
    http_status = 409


class CannotResumeError(ServiceError):
    """Agent → orchestrator: a cut stream cannot go on here: this agent would not have written its beginning."""

    code = "cannot_resume"
    http_status = 409


class EngineError(ServiceError):
    """An engine reported a failure of its own for one request or one load."""

    code = "engine_error"
    http_status = 500
    retryable = False

    def __init__(self, message: str, *, param: str | None = None, source: str = "engine") -> None:
        super().__init__(message, param=param, source=source)


class CheckpointError(SllmError):
    """An artifact or a source checkpoint is not what it claims to be. `param` names the field or file."""

    code = "invalid_checkpoint"
    http_status = 400
    openai_type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, source: str = "ingest") -> None:
        super().__init__(message, param=param, source=source)


class CheckpointFormatError(CheckpointError):
    """The structure breaks a rule of the format."""


class CorruptDataError(CheckpointError):
    """Bytes differ from their digest, or are missing."""

    code = "corrupt_checkpoint"


class UnsupportedCheckpointError(CheckpointError):
    """Valid, but of a kind that we do not read or run."""

    code = "unsupported_checkpoint"


class CapacityError(SllmError):
    """No room in the arena or on disk at this moment."""

    code = "no_capacity"
    http_status = 503
    retryable = True


class DiskFullError(CapacityError):
    """No room on the disk for what is to be fetched: somebody must free some, waiting for others does not help."""

    code = "disk_full"


class WireError(SllmError):
    """A frame, header or event between our own processes is malformed."""

    code = "wire_error"
    http_status = 400


class WireVersionError(WireError):
    """The other process speaks a version that is no neighbour of ours: one of both must be upgraded."""

    code = "wire_version"


class ConfigError(SllmError):
    """A setting is unknown, of the wrong type or out of range."""

    code = "invalid_config"
    http_status = 400
    openai_type = "invalid_request_error"


def _tree(root: type[SllmError]) -> list[type[SllmError]]:
    found = [root]
    for child in root.__subclasses__():
        found += _tree(child)
    return found


def error_classes() -> dict[str, type[SllmError]]:
    """Every class of the tree by its `code`; where a code is shared, the class nearest the root."""
    by_code: dict[str, type[SllmError]] = {}
    for cls in _tree(SllmError):
        by_code.setdefault(cls.code, cls)
    return by_code


def from_openai(body: Any, *, status: int) -> SllmError:
    """Rebuild the typed error from an OpenAI-shaped body that another of our processes sent.

    An unknown code or shape becomes a plain `SllmError` that carries the text.
    """
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return SllmError(f"HTTP {status} without an error body")
    message = str(error.get("message", f"HTTP {status}"))
    param = error.get("param")
    cls = error_classes().get(str(error.get("code")), SllmError)
    rebuilt = cls(message, param=param if isinstance(param, str) else None)
    rebuilt.source = str(error.get("source", rebuilt.source))
    return rebuilt
