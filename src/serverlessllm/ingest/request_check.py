# SPDX-License-Identifier: Apache-2.0
"""Is a request one that could be done? Looks at its texts alone: nothing is resolved, opened or asked."""

from __future__ import annotations

from serverlessllm.errors import InvalidRequestError
from serverlessllm.wire.ingest import IngestRequest


def check_request(request: IngestRequest) -> None:
    """Raises InvalidRequestError naming the field."""
    if not request.source.startswith("/"):
        raise InvalidRequestError("source: expected an absolute local path", param="source")
