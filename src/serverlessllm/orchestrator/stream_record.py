# SPDX-License-Identifier: Apache-2.0
"""What a client has of its stream: the bytes that went to it, read only when the stream has to go on elsewhere.

Keeping costs one list entry per chunk. Above `MAX_RAW_BYTES`, some thousand tokens, the oldest are read early, one
for each that comes, and only ids and counts of them are kept: 8 bytes per id. Pure; knows no connection.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import Final

import msgspec

from serverlessllm.errors import CannotResumeError
from serverlessllm.types import AnswerFinish
from serverlessllm.wire import sse
from serverlessllm.wire.resume import DIGEST_DIGITS, ResumedChoice, ResumeHead

MAX_RAW_BYTES: Final = 1 << 20


class _Function(msgspec.Struct):
    arguments: str = ""


class _Call(msgspec.Struct):
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] = []


class _Choice(msgspec.Struct):
    token_ids: list[int]
    index: int = 0
    text: str = ""
    delta: _Delta | None = None
    finish_reason: AnswerFinish | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


class _Kept:
    """One choice so far."""

    def __init__(self) -> None:
        self.token_ids = array("Q")
        self.num_characters = 0
        self.finish: AnswerFinish | None = None


_chunk: Final = msgspec.json.Decoder(_Chunk)


class StreamRecord:
    """Of one stream with `num_choices`. `prompt_digest` and `seq` are set by who relays.

    `is_partial`: its beginning went through another orchestrator, and is not known.
    """

    def __init__(self, num_choices: int) -> None:
        self.prompt_digest = ""
        self.seq = 0
        self.is_partial = False
        self._choices = [_Kept() for _ in range(num_choices)]
        self._raw: deque[bytes] = deque()
        self._raw_bytes = 0
        self._has_usage = False

    def keep(self, events: bytes) -> None:
        """Whole events went to the client."""
        self._raw.append(events)
        self._raw_bytes += len(events)
        while self._raw_bytes > MAX_RAW_BYTES:
            self._read_oldest()

    def head(self) -> ResumeHead:
        """What the next agent needs to know. Raises CannotResumeError when the bytes do not tell it."""
        self._read()
        if self.is_partial:
            raise CannotResumeError("its beginning went through another orchestrator, and is not kept")
        if len(self.prompt_digest) != DIGEST_DIGITS:
            raise CannotResumeError("the agent did not tell its prompt's digest")
        choices = [
            ResumedChoice(list(kept.token_ids), kept.num_characters, kept.finish) for kept in self._choices
        ]
        return ResumeHead(seq=self.seq, prompt_digest=self.prompt_digest, choices=choices)

    def is_whole(self, *, with_usage: bool) -> bool:
        """Whether the client has all of the answer, and only `[DONE]` is missing."""
        if self.is_partial:
            return False
        self._read()
        return all(kept.finish is not None for kept in self._choices) and (self._has_usage or not with_usage)

    def _read(self) -> None:
        while self._raw:
            self._read_oldest()

    def _read_oldest(self) -> None:
        events = self._raw.popleft()
        self._raw_bytes -= len(events)
        for event in events.split(sse.END):
            _, is_found, payload = event.rpartition(b"\ndata: ")  # JSON has no line break of its own
            if is_found and payload != b"[DONE]":
                self._take(payload)

    def _take(self, payload: bytes) -> None:
        try:
            chunk = _chunk.decode(payload)
        except msgspec.MsgspecError as error:
            raise CannotResumeError(f"a chunk of the stream is not as we write it: {error}") from error
        self._has_usage = self._has_usage or not chunk.choices
        for choice in chunk.choices:
            if not 0 <= choice.index < len(self._choices):
                raise CannotResumeError(f"the stream has a choice {choice.index} that was not asked for")
            kept = self._choices[choice.index]
            kept.token_ids.extend(choice.token_ids)
            kept.num_characters += _num_characters(choice)
            kept.finish = choice.finish_reason or kept.finish


def _num_characters(choice: _Choice) -> int:
    delta = choice.delta
    if delta is None:
        return len(choice.text)
    calls = sum(len(call.function.arguments) for call in delta.tool_calls)
    return len(delta.content or "") + calls
