# SPDX-License-Identifier: Apache-2.0
"""The grammar of our event streams, and the relay that keeps a client's stream well formed.

    stream  = { comment | event } done
    comment = ": " text LF                       one LF: an empty line here would dispatch an empty event
    event   = "id: " seq LF "data: " json LF LF  seq = ids generated so far, over all choices
    done    = "data: [DONE]" LF LF

An agent that gives a stream out of its hands says where it goes on: `: moving {json}` (`wire/migrate.py`), which the
relay takes out too.

After the headers every failure is an `{"error": …}` event and `done`. An agent's stream starts with the
comment `: prompt <hex>` (digest of the prompt's ids), which the relay keeps to itself.
Pure: bytes in, bytes out.
"""

from __future__ import annotations

from typing import Final

import msgspec

from serverlessllm.errors import SllmError, WireError

DONE: Final = b"data: [DONE]\n\n"
END: Final = b"\n\n"
PROMPT_COMMENT: Final = b": prompt "
MOVING_COMMENT: Final = b": moving "
_MOVING_LINE: Final = b"\n" + MOVING_COMMENT
MAX_TAIL_BYTES: Final = 8 << 20


def event(seq: int, payload: bytes) -> bytes:
    """One event; `payload` is JSON without line breaks."""
    return b"id: %d\ndata: %b\n\n" % (seq, payload)


def comment(text: str) -> bytes:
    """One comment line; line breaks in `text` become spaces."""
    return b": " + " ".join(text.splitlines()).encode() + b"\n"


def failure(error: SllmError) -> bytes:
    """How a stream ends whose headers have left: an error event, then `[DONE]`."""
    return b"data: " + msgspec.json.encode(error.as_openai()) + b"\n\n" + DONE


def last_seq(data: bytes) -> int | None:
    """The `id:` of the last event that starts in `data`, or None."""
    at = len(data)
    while (at := data.rfind(b"id: ", 0, at)) >= 0:
        if at == 0 or data[at - 1 : at] == b"\n":
            digits = data[at + 4 : data.find(b"\n", at)]
            return int(digits) if digits.isdigit() else None
    return None


def after(events: bytes, seq: int) -> bytes:
    """Of whole events, what a reader lacks who has all up to `seq`; b"" when he has all.

    A chunk without choices (usage) has no ids of its own: he gets it, perhaps again.
    """
    at = 0
    while (end := events.find(END, at)) >= 0:
        event = events[at:end]
        number = last_seq(event)
        if number is None or number > seq or b'"choices":[]' in event:
            return events[at:]
        at = end + len(END)
    return b""


class StreamRelay:
    """Passes an agent's bytes to the client, whole events only.

    `feed` returns what may be forwarded now; half an event waits for its rest, and is dropped when the sender
    dies. `is_done` tells that `[DONE]` went through; a stream that ends without it needs `failure(…)`. `moving` is
    the last line that said where the stream goes on, without its end.
    """

    def __init__(self) -> None:
        self._tail = b""
        self._at_start = True
        self.prompt_digest: str | None = None
        self.moving: bytes | None = None
        self.is_done = False
        self.seq = 0

    def is_plain(self, data: bytes) -> bool:
        """Whether `data` is events in the midst of a stream: no rest of a half one, no end, no word of moving."""
        return not self._tail and DONE not in data and MOVING_COMMENT not in data

    def feed(self, data: bytes) -> bytes:
        """Take received bytes. Raises WireError if an event outgrows MAX_TAIL_BYTES."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if self._at_start:
            data = self._strip_prompt_comment(data)
        if _MOVING_LINE in data or data.startswith(MOVING_COMMENT):
            data = self._strip_moving_comment(data)
        end = data.rfind(END)
        if end < 0:
            self._keep(data)
            return b""
        end += len(END)
        if end < len(data):
            self._keep(data[end:])
            data = data[:end]
        if data.endswith(DONE):
            self.is_done = True
        seq = last_seq(data)
        if seq is not None:
            self.seq = seq
        return data

    def _strip_prompt_comment(self, data: bytes) -> bytes:
        probe = data[: len(PROMPT_COMMENT)]
        if not PROMPT_COMMENT.startswith(probe) or (len(probe) == len(PROMPT_COMMENT) and b"\n" not in data):
            if not PROMPT_COMMENT.startswith(probe):
                self._at_start = False
            return data
        if len(probe) < len(PROMPT_COMMENT):
            return data
        line, _, rest = data.partition(b"\n")
        self.prompt_digest = line[len(PROMPT_COMMENT) :].decode("ascii", "replace")
        self._at_start = False
        return rest

    def _strip_moving_comment(self, data: bytes) -> bytes:
        """JSON has no line break of its own, so the line is no part of an event."""
        at = 0 if data.startswith(MOVING_COMMENT) else data.find(_MOVING_LINE) + 1
        end = data.find(b"\n", at)
        if end < 0:
            return data  # half a line: it waits in the tail
        self.moving = data[at:end]
        return data[:at] + data[end + 1 :]

    def _keep(self, tail: bytes) -> None:
        if len(tail) > MAX_TAIL_BYTES:
            raise WireError(f"an agent's event exceeds {MAX_TAIL_BYTES} bytes", source="agent")
        self._tail = tail
