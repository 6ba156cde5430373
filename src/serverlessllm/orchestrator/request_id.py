# SPDX-License-Identifier: Apache-2.0
"""The id of a request: the caller's own `x-request-id` where it is well formed, else a fresh one.

And what a caller says who comes back for the rest of a stream (`Last-Event-ID`, as browsers' EventSource sends it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from serverlessllm.errors import InvalidRequestError
from serverlessllm.types import mint_id
from serverlessllm.wire.agent import REQUEST_ID_HEADER
from serverlessllm.wire.openai import Endpoint

LAST_EVENT_ID_HEADER: Final = "Last-Event-ID"
MAX_DIGITS: Final = 12
_WELL_FORMED: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PREFIX: Final[dict[Endpoint, str]] = {"chat": "chatcmpl", "completions": "cmpl", "embeddings": "embd"}


def last_event_id(headers: Mapping[str, str]) -> int | None:
    """The last event that the caller has of this request's stream, 0: none; None: he asks for the first time.

    Raises InvalidRequestError when it is no number, or names no request.
    """
    text = headers.get(LAST_EVENT_ID_HEADER)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise InvalidRequestError(f"Last-Event-ID: {text[:40]!r} is no event of ours", param="Last-Event-ID")
    if not _WELL_FORMED.fullmatch(headers.get(REQUEST_ID_HEADER, "")):
        raise InvalidRequestError(
            "Last-Event-ID: send the stream's own x-request-id with it", param="x-request-id"
        )
    return int(text)


def request_id(given: str | None, endpoint: Endpoint) -> str:
    """It goes into headers, logs and the answer's `id`: anything but plain characters is replaced."""
    if given is not None and _WELL_FORMED.fullmatch(given):
        return given
    return mint_id(_PREFIX[endpoint])
