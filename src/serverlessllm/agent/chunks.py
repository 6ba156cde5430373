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
from serverlessllm.types import FinishReason
from serverlessllm.wire.openai import Endpoint, Usage


class Delta(msgspec.Struct, frozen=True):
    """What a chat chunk adds; the first one carries the role."""

    content: str
    role: str | UnsetType = UNSET


class ChatMessage(msgspec.Struct, frozen=True):
    """The whole answer of a chat."""

    content: str
    role: str = "assistant"
    refusal: None = None


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of a chat chunk."""

    delta: Delta
    token_ids: list[int]
    finish_reason: FinishReason | None
    index: int = 0
    logprobs: None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The choice of a chat completion."""

    message: ChatMessage
    token_ids: list[int]
    finish_reason: FinishReason | None
    index: int = 0
    logprobs: None = None


class TextChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The choice of a text completion, in chunks and whole."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    index: int = 0
    logprobs: None = None


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
        self, endpoint: Endpoint, request_id: str, created_s: int, model: str, *, include_usage: bool = False
    ) -> None:
        self._is_chat = endpoint == "chat"
        self._id = request_id
        self._created_s = created_s
        self._model = model
        self._include_usage = include_usage
        self._is_first = True

    def chunk(self, piece: Piece) -> bytes:
        """The next chunk of a stream."""
        usage = None if self._include_usage else UNSET
        if not self._is_chat:
            return self._encode(
                "text_completion", [_text_choice(piece.text, piece.token_ids, piece.finish)], usage
            )
        role = "assistant" if self._is_first else UNSET
        self._is_first = False
        choice = ChunkChoice(
            delta=Delta(piece.text, role), token_ids=piece.token_ids, finish_reason=piece.finish
        )
        return self._encode("chat.completion.chunk", [choice], usage)

    def usage_chunk(self, usage: Usage) -> bytes:
        """The last chunk where `include_usage` was asked for: no choices."""
        return self._encode("chat.completion.chunk" if self._is_chat else "text_completion", [], usage)

    def completion(self, pieces: Sequence[Piece], usage: Usage) -> bytes:
        """The whole answer as one object."""
        text = "".join(piece.text for piece in pieces)
        token_ids = [token_id for piece in pieces for token_id in piece.token_ids]
        finish = pieces[-1].finish if pieces else None
        if not self._is_chat:
            return self._encode("text_completion", [_text_choice(text, token_ids, finish)], usage)
        choice = ChatChoice(message=ChatMessage(text), token_ids=token_ids, finish_reason=finish)
        return self._encode("chat.completion", [choice], usage)

    def _encode(
        self,
        kind: Literal["chat.completion.chunk", "chat.completion", "text_completion"],
        choices: Sequence[ChunkChoice | ChatChoice | TextChoice],
        usage: Usage | None | UnsetType,
    ) -> bytes:
        return _encoder.encode(Body(self._id, kind, self._created_s, self._model, choices, usage))


def _text_choice(text: str, token_ids: list[int], finish: FinishReason | None) -> TextChoice:
    return TextChoice(text=text, token_ids=token_ids, finish_reason=finish)
