# SPDX-License-Identifier: Apache-2.0
"""One streamed request as its client sees it: when the first token came, and when the answer ended."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """Milliseconds from connecting to the first token, and to the answer's end."""

    first_ms: float
    whole_ms: float
    request_id: str


def ask(url: str, path: str, body: Mapping[str, object]) -> TimedAnswer:
    """Post `body` to `url` + `path`, streamed. Raises: RuntimeError for an error, or a stream without a token."""
    payload = json.dumps({**body, "stream": True})
    started = time.perf_counter()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
    connection.request("POST", path, payload, {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"HTTP {response.status}: {response.read()[:300]!r}")
    first = None
    for line in response:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            if first is None and event["choices"] and event["choices"][0].get("token_ids"):
                first = time.perf_counter()
    ended = time.perf_counter()
    connection.close()
    if first is None:
        raise RuntimeError("the stream had no token")
    return TimedAnswer(
        (first - started) * 1e3, (ended - started) * 1e3, str(response.headers["x-request-id"])
    )
