# SPDX-License-Identifier: Apache-2.0
"""Is a request one that could be done? Looks at its texts alone: nothing is resolved, opened or asked."""

from __future__ import annotations

from pathlib import Path

from serverlessllm.errors import CheckpointError, InvalidRequestError
from serverlessllm.sources.location import Location
from serverlessllm.wire.ingest import IngestRequest


def check_request(request: IngestRequest) -> None:
    """Raises InvalidRequestError naming the field."""
    location = _parse("source", request.source)
    if location.kind == "path" and not Path(location.root).is_absolute():
        raise InvalidRequestError(
            "source: expected an absolute local path, hf://org/name[@revision], s3://bucket/prefix or an http(s) URL",
            param="source",
        )
    if request.publish and _parse("publish", request.publish).kind != "s3":
        raise InvalidRequestError("publish: only s3://bucket/prefix can be published to", param="publish")


def _parse(field: str, text: str) -> Location:
    try:
        return Location.parse(text)
    except (CheckpointError, InvalidRequestError) as error:
        raise InvalidRequestError(f"{field}: {error.message}", param=field) from error
