# SPDX-License-Identifier: Apache-2.0
"""A strict reader of the client stream's grammar (`docs/stream.md`): anything else is an AssertionError."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

_EVENT = re.compile(r"(?:id: (\d+)\n)?data: ([^\n]*)\n\n")
_COMMENT = re.compile(r": [^\n]*\n")


@dataclass
class Parsed:
    """What a well-formed stream says."""

    text: str = ""
    seqs: list[int] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None


def parse_stream(raw: bytes) -> Parsed:
    """Comments and events alternate freely; the last event is `[DONE]`; nothing follows it or an error but that."""
    stream, at, parsed, is_done = raw.decode(), 0, Parsed(), False
    while at < len(stream):
        assert not is_done, f"bytes after [DONE]: {stream[at:]!r}"
        comment = _COMMENT.match(stream, at)
        event = None if comment else _EVENT.match(stream, at)
        match = comment or event
        assert match is not None, f"neither comment nor event at {at}: {stream[at : at + 80]!r}"
        at = match.end()
        if comment:
            parsed.comments.append(match[0][2:-1])
        elif event and event[2] == "[DONE]":
            is_done = True
        elif event:
            _take(parsed, event[1], json.loads(event[2]))
    assert is_done, "the stream ended without [DONE]"
    return parsed


def _take(parsed: Parsed, seq: str | None, payload: dict[str, Any]) -> None:
    assert parsed.error is None, "an event after an error"
    if "error" in payload:
        parsed.error = payload["error"]
        return
    assert seq is not None, "a chunk without an id"
    assert not parsed.seqs or int(seq) > parsed.seqs[-1], "ids must rise"
    parsed.seqs.append(int(seq))
    parsed.text += "".join(choice["delta"].get("content") or "" for choice in payload["choices"])
