# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from tokenizers import Tokenizer, decoders, models

from serverlessllm.text.token_bytes import TokenBytes
from serverlessllm.text.tokenizer import TextModel
from support.memory_source import MemorySource
from support.tiny_tokenizer import IM_END_ID

TEXT = TextModel.load(MemorySource())


def test_byte_level_tokens_join_to_the_text() -> None:
    text = "Naïve café 你好 🙂\n\t x"
    assert b"".join(map(TEXT.token_bytes, TEXT.encode(text))) == text.encode()


def test_special_token_is_its_own_text_and_an_unknown_id_nothing() -> None:
    assert TEXT.token_bytes(IM_END_ID) == b"<|im_end|>"
    assert TEXT.token_bytes(10**6) == b""


def test_byte_fallback_vocabulary_spells_spaces_and_raw_bytes() -> None:
    tokenizer = Tokenizer(models.BPE({"\u2581a": 0, "<0xE4>": 1, "b": 2}, [], byte_fallback=True))
    tokenizer.decoder = decoders.ByteFallback()
    token_bytes = TokenBytes(tokenizer)
    assert [token_bytes.of(token_id) for token_id in range(3)] == [b" a", b"\xe4", b"b"]
