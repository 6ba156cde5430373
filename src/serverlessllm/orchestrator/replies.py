# SPDX-License-Identifier: Apache-2.0
"""JSON answers, and errors in OpenAI's shape with the headers that belong to their status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec
from aiohttp import web

from serverlessllm.errors import AuthenticationError, SllmError

_encoder: Final = msgspec.json.Encoder()


def json_reply(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`body` (a struct, or what JSON has) as the answer."""
    return web.Response(
        body=_encoder.encode(body), status=status, content_type="application/json", headers=headers
    )


def error_reply(error: SllmError, headers: Mapping[str, str] | None = None) -> web.Response:
    """The error's own status and body; Retry-After and WWW-Authenticate where they belong."""
    extra = dict(headers or {})
    if error.retry_after_s is not None:
        extra["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, AuthenticationError):
        extra["WWW-Authenticate"] = "Bearer"
    return json_reply(error.as_openai(), status=error.http_status, headers=extra)
