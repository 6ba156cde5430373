# SPDX-License-Identifier: Apache-2.0
"""The JSON of answers, as OpenAI's clients read it, byte for byte."""

from __future__ import annotations

import json

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from serverlessllm.agent.answer import Piece
from serverlessllm.agent.chunks import ChunkWriter
from serverlessllm.agent.logprobs import SpelledChoice, SpelledToken
from serverlessllm.wire.openai import PromptTokensDetails, Usage

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


A_TOKEN = SpelledChoice(SpelledToken(b"He", -0.5), (SpelledToken(b"He", -0.5), SpelledToken(b"\xe4", -2.0)))
B_TOKEN = SpelledChoice(SpelledToken(b"llo", -0.25), ())


def test_each_choice_has_its_index_and_its_role_once() -> None:
    writer = chat()
    pieces = [Piece("a", [1], 1, None, 0), Piece("b", [2], 2, None, 1), Piece("c", [3], 3, "stop", 1)]
    chunks = [ChatCompletionChunk.model_validate_json(writer.chunk(piece)) for piece in pieces]
    found = [(chunk.choices[0].index, chunk.choices[0].delta.role) for chunk in chunks]
    assert found == [(0, "assistant"), (1, "assistant"), (1, None)]


def test_whole_answer_lists_choices_in_order() -> None:
    pieces = [Piece("b", [2], 1, "stop", 1), Piece("a", [1], 2, None, 0), Piece("A", [3], 3, "length", 0)]
    answer = ChatCompletion.model_validate_json(chat().completion(pieces, USAGE))
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(0, "aA"), (1, "b")]


def test_chat_logprobs_spell_tokens_with_their_bytes() -> None:
    piece = Piece("Hello", [1, 2], 2, "length", 0, [A_TOKEN, B_TOKEN])
    chunk = ChatCompletionChunk.model_validate_json(chat().chunk(piece))
    assert chunk.choices[0].logprobs is not None and chunk.choices[0].logprobs.content is not None
    first, second = chunk.choices[0].logprobs.content
    assert (first.token, first.bytes, first.logprob) == ("He", [72, 101], -0.5)
    assert [(top.token, top.bytes) for top in first.top_logprobs] == [("He", [72, 101]), ("\ufffd", [0xE4])]
    assert second.top_logprobs == []


def test_completion_logprobs_are_parallel_lists_whose_offsets_go_on_over_chunks() -> None:
    writer = text()
    pieces = [Piece("He", [1], 1, None, 0, [A_TOKEN]), Piece("llo", [2], 2, "stop", 0, [B_TOKEN])]
    found = [json.loads(writer.chunk(piece))["choices"][0]["logprobs"]["text_offset"] for piece in pieces]
    whole = Completion.model_validate_json(text().completion(pieces, USAGE)).choices[0].logprobs
    assert found == [[0], [2]]
    assert whole is not None
    assert (whole.tokens, whole.text_offset) == (["He", "llo"], [0, 2])
    assert whole.top_logprobs == [{"He": -0.5, "bytes:\\xe4": -2.0}, {}]


def test_usage_tells_what_was_cached() -> None:
    usage = Usage(3, 2, 5, PromptTokensDetails(cached_tokens=2))
    answer = ChatCompletion.model_validate_json(chat().completion([Piece("a", [1], 1, "stop")], usage))
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
