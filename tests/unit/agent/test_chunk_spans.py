# SPDX-License-Identifier: Apache-2.0
"""Where chunks of canonical text end, in tokens. A token here is one character unless a test says otherwise."""

from __future__ import annotations

from serverlessllm.agent.chunk_spans import Stretch, answer_ends, id_ends, prompt_ends
from serverlessllm.wire.prompt_chunks import CHUNK_BYTES, Part


def by_character(prompt: str) -> list[int]:
    return list(range(1, len(prompt) + 1))


def test_plain_prompt_ends_where_its_characters_do() -> None:
    prompt = "x" * (2 * CHUNK_BYTES + 9)
    ends = prompt_ends([Part("", prompt)], prompt, by_character(prompt))
    assert ends == [CHUNK_BYTES, 2 * CHUNK_BYTES]


def test_text_of_the_template_before_a_content_is_counted() -> None:
    parts = [Part("HEAD", "a" * 400), Part("HEAD", "b" * 400)]
    prompt = "<|start|>" + "a" * 400 + "<|end|><|start|>" + "b" * 400
    (end,) = prompt_ends(parts, prompt, by_character(prompt))
    assert end == 9 + 400 + 16 + (CHUNK_BYTES - 400 - 2 * 4)


def test_end_within_framing_counts_as_the_end_of_the_content_before() -> None:
    parts = [Part("", "a" * (CHUNK_BYTES - 2)), Part("HEAD", "b" * 100)]
    prompt = "a" * (CHUNK_BYTES - 2) + "<|next|>" + "b" * 100
    assert prompt_ends(parts, prompt, by_character(prompt)) == [CHUNK_BYTES - 2]


def test_token_across_a_chunks_end_is_not_counted() -> None:
    prompt = "x" * 600
    assert prompt_ends([Part("", prompt)], prompt, [500, CHUNK_BYTES + 1, 600]) == [1]


def test_characters_of_several_bytes_are_counted_whole() -> None:
    prompt = "é" * CHUNK_BYTES
    assert prompt_ends([Part("", prompt)], prompt, by_character(prompt)) == [256, 512]
    prompt = "x" + "é" * CHUNK_BYTES
    assert prompt_ends([Part("", prompt)], prompt, by_character(prompt)) == [256, 512]


def test_trimmed_content_is_found() -> None:
    content = "\n\n" + "x" * 700 + "  "
    prompt = "<s>" + content.strip()
    assert prompt_ends([Part("", content)], prompt, by_character(prompt)) == [3 + CHUNK_BYTES - 2]


def test_from_a_changed_content_on_nothing_is_told() -> None:
    parts = [Part("", "a" * CHUNK_BYTES), Part("", "b" * CHUNK_BYTES), Part("", "c" * CHUNK_BYTES)]
    prompt = "a" * CHUNK_BYTES + "B" * CHUNK_BYTES + "c" * CHUNK_BYTES
    assert prompt_ends(parts, prompt, by_character(prompt)) == [CHUNK_BYTES]


def test_ids_are_four_bytes_each() -> None:
    assert id_ends(CHUNK_BYTES) == [128, 256, 384, 512]
    assert id_ends(127) == []


def test_answer_goes_on_where_the_prompt_stopped() -> None:
    stretches = [Stretch(100 * number, 7 * number) for number in range(1, 12)]
    assert answer_ends(500, 90, 4, stretches) == [90 + 7, 90 + 42, 90 + 77]
    assert answer_ends(510, 90, 4, stretches)[0] == 90
    assert answer_ends(500, 90, 4, []) == []
