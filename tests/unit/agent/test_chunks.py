# SPDX-License-Identifier: Apache-2.0
"""The JSON of answers, as OpenAI's clients read it, byte for byte."""

from __future__ import annotations

import json

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from serverlessllm.agent.answer import Piece
from serverlessllm.agent.chunks import ChunkWriter
from serverlessllm.wire.openai import Usage

USAGE = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)


def chat(*, include_usage: bool = False) -> ChunkWriter:
    return ChunkWriter("chat", "chatcmpl-1", 1700, "m", include_usage=include_usage)


def text() -> ChunkWriter:
    return ChunkWriter("completions", "cmpl-1", 1700, "m")


def test_first_chat_chunk_carries_the_role() -> None:
    assert chat().chunk(Piece("Hi", [5, 6], 2, None)) == (
        b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700,"model":"m","choices":[{"delta":'
        b'{"content":"Hi","role":"assistant"},"token_ids":[5,6],"finish_reason":null,"index":0,"logprobs":null}]}'
    )


def test_later_chat_chunk_has_no_role_and_may_finish() -> None:
    writer = chat()
    writer.chunk(Piece("", [5], 1, None))
    chunk = ChatCompletionChunk.model_validate_json(writer.chunk(Piece("!", [6], 2, "stop")))
    assert (chunk.choices[0].delta.role, chunk.choices[0].finish_reason) == (None, "stop")


def test_include_usage_adds_null_to_chunks_and_a_last_chunk() -> None:
    writer = chat(include_usage=True)
    assert json.loads(writer.chunk(Piece("a", [1], 1, None)))["usage"] is None
    last = ChatCompletionChunk.model_validate_json(writer.usage_chunk(USAGE))
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 5


def test_chat_completion_joins_the_pieces() -> None:
    pieces = [Piece("He", [1], 1, None), Piece("llo", [2, 3], 3, "length")]
    body = chat().completion(pieces, USAGE)
    completion = ChatCompletion.model_validate_json(body)
    assert completion.choices[0].message.content == "Hello"
    assert completion.choices[0].finish_reason == "length"
    assert json.loads(body)["choices"][0]["token_ids"] == [1, 2, 3]


def test_text_completion_chunk_and_whole_have_one_shape() -> None:
    piece = Piece("a\n\u2028b", [1], 1, "stop")
    chunk = Completion.model_validate_json(text().chunk(piece))
    whole = Completion.model_validate_json(text().completion([piece], USAGE))
    assert chunk.choices == whole.choices
    assert whole.usage is not None


def test_chunk_is_one_line_whatever_the_text() -> None:
    assert b"\n" not in chat().chunk(Piece("line\nbreak\r\n\x00", [1], 1, None))
