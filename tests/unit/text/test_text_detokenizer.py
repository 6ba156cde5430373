# SPDX-License-Identifier: Apache-2.0
"""Incremental detokenising equals decoding at once, for every kind of decoder and any ids."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from serverlessllm.text.detokenizer import Detokenizer, Vocabulary
from support.tiny_tokenizer import tiny_tokenizer_files

PIECES = ["▁", "▁▁", "▁a", "b", "▁the", "é", "🙂", "\ufffd", "x▁y", "##s", "w</w>", "."]
KINDS = ["byte_level", "sentencepiece", "metaspace", "gemma", "wordpiece", "bpe_suffix"]
DECODERS = {
    "sentencepiece": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "gemma": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    "metaspace": decoders.Metaspace(),
    "wordpiece": decoders.WordPiece(),
    "bpe_suffix": decoders.BPEDecoder(),
}


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    """Byte-level: the tiny tokenizer. Others: few pieces, all 256 byte tokens, one special and one added token."""
    if kind == "byte_level":
        tokenizer = Tokenizer.from_buffer(tiny_tokenizer_files()["tokenizer.json"])
    else:
        tokens = ["<unk>", *PIECES, *(f"<0x{byte:02X}>" for byte in range(256))]
        tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, "<unk>"))
        tokenizer.decoder = DECODERS[kind]
        tokenizer.add_special_tokens(["<s>"])
    tokenizer.add_tokens([AddedToken("<tool call>", normalized=False)])
    return tokenizer


def deliver(kind: str, ids: Iterable[int], prompt_ids: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(Vocabulary(tokenizer_of(kind)), prompt_ids or ())
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


def ids_of(kind: str, text: str) -> list[int]:
    ids: list[int] = tokenizer_of(kind).encode(text).ids
    return ids


def random_ids(kind: str) -> st.SearchStrategy[list[int]]:
    """Any ids, a few beyond the vocabulary; short runs of one part of it make byte sequences likely."""
    size = tokenizer_of(kind).get_vocab_size()
    anything = st.lists(st.integers(0, size + 3), max_size=60)
    low, high = (3, 258) if kind == "byte_level" else (1, len(PIECES) + 4)
    narrow = st.lists(st.integers(low, high), max_size=60)
    utf8 = st.text(max_size=20).map(lambda text: [byte_id(kind, byte) for byte in text.encode()])
    return st.lists(st.one_of(anything, narrow, utf8), max_size=4).map(lambda parts: sum(parts, []))


def byte_id(kind: str, byte: int) -> int:
    """The id that stands for one byte."""
    return byte + (3 if kind == "byte_level" else 1 + len(PIECES))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data())
def test_pushes_of_any_ids_add_up_to_decode(kind: str, data: st.DataObject) -> None:
    ids = data.draw(random_ids(kind))
    assert "".join(deliver(kind, ids)) == tokenizer_of(kind).decode(ids, skip_special_tokens=True)


@settings(deadline=None)
@given(text=st.text(max_size=80))
def test_pushes_of_encoded_text_add_up_to_the_text(text: str) -> None:
    ids = ids_of("byte_level", text)
    special = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    if not any(token in text for token in special):
        assert "".join(deliver("byte_level", ids)) == text


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "gemma"])
@settings(deadline=None)
@given(data=st.data())
def test_prompt_context_gives_the_text_that_follows_it(kind: str, data: st.DataObject) -> None:
    last = tokenizer_of(kind).token_to_id("a" if kind == "byte_level" else ".")
    prompt_ids = [*data.draw(random_ids(kind)), last or 0]
    ids = data.draw(random_ids(kind))
    before = tokenizer_of(kind).decode(prompt_ids)
    assert before + "".join(deliver(kind, ids, prompt_ids)) == tokenizer_of(kind).decode(prompt_ids + ids)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "gemma"])
@settings(deadline=None)
@given(text=st.text("é🙂你", min_size=1, max_size=12))
def test_valid_bytes_never_show_a_replacement_character(kind: str, text: str) -> None:
    pieces = deliver(kind, [byte_id(kind, byte) for byte in text.encode()])
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_character_of_three_tokens_comes_with_its_last() -> None:
    ids = [byte_id("byte_level", byte) for byte in "你a".encode()]
    assert deliver("byte_level", ids) == ["", "", "你", "a", ""]


def test_unfinished_character_is_replaced_at_the_end() -> None:
    ids = [byte_id("byte_level", byte) for byte in b"a\xe4\xbd"]
    assert deliver("byte_level", ids) == ["a", "", "", "\ufffd"]


def test_first_word_after_a_prompt_keeps_its_space() -> None:
    a, the = (tokenizer_of("sentencepiece").token_to_id(token) for token in ("▁a", "▁the"))
    assert a is not None and the is not None
    assert deliver("sentencepiece", [the])[0] == "the"
    assert deliver("sentencepiece", [the], [a])[0] == " the"


def test_special_tokens_and_unknown_ids_show_nothing() -> None:
    assert deliver("byte_level", [0, 1, 2, 1_000_000]) == [""] * 5


def test_work_per_token_does_not_grow_with_the_answer() -> None:
    class CountingVocabulary(Vocabulary):
        num_decoded_ids = 0

        def decode(self, ids: list[int]) -> str:
            self.num_decoded_ids += len(ids)
            return super().decode(ids)

    vocabulary = CountingVocabulary(tokenizer_of("byte_level"))
    detokenizer = Detokenizer(vocabulary)
    stray_byte = byte_id("byte_level", 0x9F)
    for _ in range(5000):
        detokenizer.push(stray_byte)
    assert vocabulary.num_decoded_ids < 5000 * 20
