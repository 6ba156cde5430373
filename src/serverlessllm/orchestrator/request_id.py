# SPDX-License-Identifier: Apache-2.0
"""The id of a request: the caller's own `x-request-id` where it is well formed, else a fresh one."""

from __future__ import annotations

import re
from typing import Final

from serverlessllm.types import mint_id
from serverlessllm.wire.openai import Endpoint

_WELL_FORMED: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PREFIX: Final[dict[Endpoint, str]] = {"chat": "chatcmpl", "completions": "cmpl", "embeddings": "embd"}


def request_id(given: str | None, endpoint: Endpoint) -> str:
    """It goes into headers, logs and the answer's `id`: anything but plain characters is replaced."""
    if given is not None and _WELL_FORMED.fullmatch(given):
        return given
    return mint_id(_PREFIX[endpoint])
