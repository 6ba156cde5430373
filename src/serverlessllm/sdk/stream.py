# SPDX-License-Identifier: Apache-2.0
"""Reads a client stream of ours (grammar in `wire/sse.py`) into typed items, however the bytes are cut.

Takes what the SSE standard allows beside our grammar (CRLF, several `data:` lines), because proxies rewrite.
Knows no HTTP: bytes in, items out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from serverlessllm.errors import SllmError, WireError, from_openai
from serverlessllm.sdk.start_summary import StartSummary

MAX_EVENT_BYTES: Final = 8 << 20
MAX_SEQ_DIGITS: Final = 20
_TIMELINE: Final = "timeline "
_PERCENT: Final = re.compile(r"(\d+(?:\.\d+)?)%")
_ETA: Final = re.compile(r"\beta (\d+(?:\.\d+)?)s")


@dataclass(frozen=True, slots=True)
class Progress:
    """A comment sent while the model wakes, e.g. `loading 41% eta 0.8s`; numbers where it carries them."""

    text: str
    percent: float | None = None
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of an answer. `seq` = ids generated so far over all choices (None: the event had no id).

    `token_ids` are the ids sampled since the choice's previous chunk. `usage` comes last, if asked for.
    """

    seq: int | None
    text: str
    token_ids: tuple[int, ...] = ()
    choice: int = 0
    finish_reason: str | None = None
    usage: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class TimelineComment:
    """How the start went: the stream's last comment, or the `Server-Timing` header."""

    summary: StartSummary


@dataclass(frozen=True, slots=True)
class Done:
    """`[DONE]`: the stream is whole."""


@dataclass(frozen=True, slots=True)
class Error:
    """The request failed after its headers had left, or the stream was cut."""

    error: SllmError


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The connection broke; after `pause_s` the rest of the answer is asked for. `num_try` of `max_tries`."""

    num_try: int
    max_tries: int
    pause_s: float
    reason: str


StreamItem = Progress | Chunk | TimelineComment | Done | Error | Reconnecting


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    token_ids: list[int] = []


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class _Payload(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict[str, object] | None = None


_decoder: Final = msgspec.json.Decoder(_Payload)


class StreamParser:
    """Feed it bytes as they come; `finish` when no more will. `is_done` tells that `[DONE]` or an error was seen."""

    def __init__(self) -> None:
        self._tail = b""
        self._data: list[bytes] = []
        self._seq: int | None = None
        self.is_done = False

    def feed(self, data: bytes) -> list[StreamItem]:
        """The items that became complete. Raises WireError when one event outgrows MAX_EVENT_BYTES."""
        lines = (self._tail + data).split(b"\n")
        self._tail = lines.pop()
        if len(self._tail) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise WireError(f"an event of the stream exceeds {MAX_EVENT_BYTES} bytes; is this our server?")
        items: list[StreamItem] = []
        for line in lines:
            items += self._line(line.removesuffix(b"\r"))
        return items

    def finish(self) -> list[StreamItem]:
        """The stream ended: an `Error` unless `[DONE]` or an error event came before."""
        if self.is_done:
            return []
        self.is_done = True
        return [Error(WireError("the stream ended before [DONE]: the server or the connection went away"))]

    def _line(self, line: bytes) -> list[StreamItem]:
        if not line:
            return self._dispatch()
        if line.startswith(b":"):
            return [_comment(line[1:].strip().decode("utf-8", "replace"))]
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"id" and value.isdigit() and len(value) <= MAX_SEQ_DIGITS:
            self._seq = int(value)
        return []

    def _dispatch(self) -> list[StreamItem]:
        data, seq = b"\n".join(self._data), self._seq
        self._data, self._seq = [], None
        if not data:
            return []
        if data == b"[DONE]":
            was_done, self.is_done = self.is_done, True
            return [] if was_done else [Done()]
        try:
            payload = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.is_done = True
            return [Error(WireError(f"an event of the stream is not a chunk: {error}"))]
        if payload.error is not None:
            self.is_done = True
            return [Error(from_openai({"error": payload.error}, status=500))]
        return list(_chunks(payload, seq))


def _comment(text: str) -> StreamItem:
    if text.startswith(_TIMELINE):
        summary = StartSummary.from_json(text[len(_TIMELINE) :])
        if summary is not None:
            return TimelineComment(summary)
    percent, eta = _PERCENT.search(text), _ETA.search(text)
    return Progress(text, float(percent[1]) if percent else None, float(eta[1]) if eta else None)


def _chunks(payload: _Payload, seq: int | None) -> list[Chunk]:
    usage = msgspec.structs.asdict(payload.usage) if payload.usage is not None else None
    if not payload.choices:
        return [Chunk(seq, "", usage=usage)] if usage is not None else []
    return [
        Chunk(
            seq,
            (choice.delta.content if choice.delta is not None else choice.text) or "",
            tuple(choice.token_ids),
            choice.index,
            choice.finish_reason,
            usage,
        )
        for choice in payload.choices
    ]
