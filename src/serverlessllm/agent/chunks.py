# SPDX-License-Identifier: Apache-2.0
"""The JSON of an answer, as OpenAI forms it: chunks of a stream, or one completion object.

`token_ids` in a choice is our documented extension: every id sampled for it since its previous chunk.
One encoding of one small struct per chunk: this runs once per token. Pure; knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from serverlessllm.agent.answer import Piece
from serverlessllm.agent.logprobs import (
    ChatLogprobs,
    TextLogprobs,
    chat_logprobs,
    num_characters,
    text_logprobs,
)
from serverlessllm.agent.tool_call_json import ToolCallDelta, WholeToolCall, call_deltas, whole_calls
from serverlessllm.types import AnswerFinish
from serverlessllm.wire.openai import TextEndpoint, Usage


class Delta(msgspec.Struct, frozen=True):
    """What a chat chunk adds; the first one carries the role. `content` is null where only calls begin."""

    content: str | None | UnsetType
    role: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatMessage(msgspec.Struct, frozen=True):
    """The whole answer of a chat."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: list[WholeToolCall] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of a chat chunk."""

    delta: Delta
    token_ids: list[int]
    finish_reason: AnswerFinish | None
    index: int = 0
    logprobs: ChatLogprobs | None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of a chat completion."""

    message: ChatMessage
    token_ids: list[int]
    finish_reason: AnswerFinish | None
    index: int = 0
    logprobs: ChatLogprobs | None = None


class TextChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of a text completion, in chunks and whole."""

    text: str
    token_ids: list[int]
    finish_reason: AnswerFinish | None
    index: int = 0
    logprobs: TextLogprobs | None = None


class Body(msgspec.Struct, frozen=True):
    """The envelope that all share. `usage` null says: it comes in the last chunk."""

    id: str
    object: Literal["chat.completion.chunk", "chat.completion", "text_completion"]
    created: int
    model: str
    choices: Sequence[ChunkChoice | ChatChoice | TextChoice]
    usage: Usage | None | UnsetType = UNSET


_encoder: Final = msgspec.json.Encoder()


class ChunkWriter:
    """Writes the chunks, or the completion, of one request."""

    def __init__(
        self,
        endpoint: TextEndpoint,
        request_id: str,
        created_s: int,
        model: str,
        *,
        include_usage: bool = False,
    ) -> None:
        self._is_chat = endpoint == "chat"
        self._id = request_id
        self._created_s = created_s
        self._model = model
        self._include_usage = include_usage
        self._num_characters: dict[int, int] = {}

    def continue_choice(self, choice: int, num_characters: int) -> None:
        """Its first chunks were written elsewhere; offsets of log-probabilities count from `num_characters`."""
        self._num_characters[choice] = num_characters

    def chunk(self, piece: Piece) -> bytes:
        """The next chunk of a stream."""
        usage = None if self._include_usage else UNSET
        is_first = piece.choice not in self._num_characters
        offset = self._num_characters.setdefault(piece.choice, 0)
        self._num_characters[piece.choice] += num_characters(piece.logprobs or ())
        if not self._is_chat:
            return self._encode("text_completion", [_text_choice(piece, offset)], usage)
        choice = ChunkChoice(
            delta=self._delta(piece, is_first=is_first),
            token_ids=piece.token_ids,
            finish_reason=piece.finish,
            index=piece.choice,
            logprobs=None if piece.logprobs is None else chat_logprobs(piece.logprobs),
        )
        return self._encode("chat.completion.chunk", [choice], usage)

    def _delta(self, piece: Piece, *, is_first: bool) -> Delta:
        role: str | UnsetType = "assistant" if is_first else UNSET
        if not piece.calls:
            return Delta(piece.text, role)
        content = piece.text or (None if is_first else UNSET)
        return Delta(content, role, call_deltas(piece.calls, self._id, piece.choice))

    def usage_chunk(self, usage: Usage) -> bytes:
        """The last chunk where `include_usage` was asked for: no choices."""
        return self._encode("chat.completion.chunk" if self._is_chat else "text_completion", [], usage)

    def completion(self, pieces: Sequence[Piece], usage: Usage) -> bytes:
        """The whole answer as one object, its choices in order."""
        wholes = [
            _join([piece for piece in pieces if piece.choice == choice])
            for choice in sorted({piece.choice for piece in pieces})
        ]
        if not self._is_chat:
            return self._encode("text_completion", [_text_choice(whole, 0) for whole in wholes], usage)
        return self._encode("chat.completion", [_chat_choice(whole, self._id) for whole in wholes], usage)

    def _encode(
        self,
        kind: Literal["chat.completion.chunk", "chat.completion", "text_completion"],
        choices: Sequence[ChunkChoice | ChatChoice | TextChoice],
        usage: Usage | None | UnsetType,
    ) -> bytes:
        return _encoder.encode(Body(self._id, kind, self._created_s, self._model, choices, usage))


def _join(pieces: Sequence[Piece]) -> Piece:
    """All pieces of one choice as one."""
    last = pieces[-1]
    logprobs = None
    if last.logprobs is not None:
        logprobs = [token for piece in pieces for token in piece.logprobs or ()]
    return Piece(
        "".join(piece.text for piece in pieces),
        [token_id for piece in pieces for token_id in piece.token_ids],
        last.seq,
        last.finish,
        last.choice,
        logprobs,
        tuple(delta for piece in pieces for delta in piece.calls),
    )


def _chat_choice(whole: Piece, request_id: str) -> ChatChoice:
    message = ChatMessage(whole.text)
    if whole.calls:
        calls = whole_calls(whole.calls, request_id, whole.choice)
        message = ChatMessage(whole.text or None, tool_calls=calls)
    return ChatChoice(
        message=message,
        token_ids=whole.token_ids,
        finish_reason=whole.finish,
        index=whole.choice,
        logprobs=None if whole.logprobs is None else chat_logprobs(whole.logprobs),
    )


def _text_choice(piece: Piece, offset: int) -> TextChoice:
    return TextChoice(
        text=piece.text,
        token_ids=piece.token_ids,
        finish_reason=piece.finish,
        index=piece.choice,
        logprobs=None if piece.logprobs is None else text_logprobs(piece.logprobs, offset),
    )
