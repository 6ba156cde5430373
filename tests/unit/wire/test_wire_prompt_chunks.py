# SPDX-License-Identifier: Apache-2.0
"""Names of prompt chunks: golden values, and what they stand for."""

from __future__ import annotations

import msgspec

from serverlessllm.wire import openai
from serverlessllm.wire.prompt_chunks import (
    CHUNK_BYTES,
    Part,
    answer_part,
    canonical_text,
    chunk_names,
    parts_of,
)

TEXT = bytes(index % 251 for index in range(4 * CHUNK_BYTES + 100))
GOLDEN = [0x7942A3C8EC5C3236, 0xF4727BB175C31C76, 0x5909CC75F7607CC5, 0x3617C4FAD21CE0E9]


def chat(*messages: dict[str, object], **fields: object) -> openai.ChatRequest:
    return openai.parse_chat(msgspec.json.encode({"model": "m", "messages": messages, **fields}))


def test_names_are_these() -> None:
    assert chunk_names(TEXT, "salt") == GOLDEN
    assert chunk_names(b"\xff" * CHUNK_BYTES, "") == [0x6F5EA47B4F0B4359]


def test_names_go_on_as_the_text_grows() -> None:
    for length in range(0, len(TEXT), 37):
        assert chunk_names(TEXT[:length], "salt") == GOLDEN[: length // CHUNK_BYTES]


def test_an_early_byte_and_the_salt_change_every_name() -> None:
    changed = b"\x09" + TEXT[1:]
    names = [chunk_names(TEXT, "a"), chunk_names(TEXT, "b"), chunk_names(changed, "a")]
    assert len({name for each in names for name in each}) == 12


def test_canonical_text_of_a_chat_is_this() -> None:
    request = chat(
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "né"}, {"type": "text", "text": "e"}],
            "name": "al",
        },
    )
    expected = "\x1esystem\x1f\x1f\x1fBe brief.\x1euser\x1fal\x1f\x1fnée"
    assert canonical_text(request) == expected.encode()


def test_next_turn_begins_with_the_turn_before_and_its_answer() -> None:
    question: dict[str, object] = {"role": "user", "content": "Why?"}
    first = canonical_text(chat(question)) + answer_part("Because.").encode()
    second = chat(question, {"role": "assistant", "content": "Because."}, {"role": "user", "content": "And?"})
    assert canonical_text(second).startswith(first)


def test_ids_are_little_endian_words() -> None:
    request = openai.parse_completion(b'{"model":"m","prompt":[1,258]}')
    assert canonical_text(request) == b"\x01\0\0\0\x02\x01\0\0"
    assert parts_of(request) == []


def test_text_prompt_is_its_own_canonical_text() -> None:
    request = openai.parse_completion('{"model":"m","prompt":"naïve"}'.encode())
    assert canonical_text(request) == "naïve".encode()
    assert parts_of(request) == [Part("", "naïve")]


def test_lone_surrogate_has_a_name_too() -> None:
    request = openai.CompletionRequest(model="m", prompt="\ud800" * CHUNK_BYTES)
    assert len(chunk_names(canonical_text(request), "s")) == 3
