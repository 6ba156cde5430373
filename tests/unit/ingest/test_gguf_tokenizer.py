# SPDX-License-Identifier: Apache-2.0
"""The tokenizer that is rebuilt from a GGUF file's lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.gguf import GgufSource
from support.tiny_checkpoints import write_tiny_gguf


def _tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_str(GgufSource(path).files()["tokenizer.json"].decode())


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_any_text_survives_encoding_and_decoding(tmp_path: Path, pre: str) -> None:
    tokenizer = _tokenizer(write_tiny_gguf(tmp_path / "m.gguf", pre=pre))
    text = "he said 123 \n\t  he’s 🙂 ü漢字 "
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_merges_and_special_tokens_apply(tmp_path: Path) -> None:
    tokenizer = _tokenizer(write_tiny_gguf(tmp_path / "m.gguf"))
    assert tokenizer.encode("he he<|end|>").tokens == ["he", "Ġhe", "<|end|>"]
    assert tokenizer.encode("<|end|>").ids == [0]


def test_smollm_cuts_digits_one_by_one(tmp_path: Path) -> None:
    pre_tokenizer = _tokenizer(write_tiny_gguf(tmp_path / "m.gguf")).pre_tokenizer
    assert pre_tokenizer is not None
    cut = [piece for piece, _ in pre_tokenizer.pre_tokenize_str("a 12b")]
    assert cut == ["a", "Ġ", "1", "2", "b"]


def test_tokenizer_config_carries_template_and_special_tokens(tmp_path: Path) -> None:
    config = json.loads(GgufSource(write_tiny_gguf(tmp_path / "m.gguf")).files()["tokenizer_config.json"])
    assert config["chat_template"] == "{{ messages[0].content }}"
    assert config["eos_token"] == "<|end|>"


@pytest.mark.parametrize(("key", "value"), [("model", "llama"), ("pre", "tekken")])
def test_unknown_tokenizers_are_refused_by_name(tmp_path: Path, key: str, value: str) -> None:
    names = {"model": "gpt2", "pre": "smollm", key: value}
    source = GgufSource(write_tiny_gguf(tmp_path / "m.gguf", model=names["model"], pre=names["pre"]))
    with pytest.raises(UnsupportedCheckpointError, match=value) as caught:
        source.files()
    assert caught.value.param == f"tokenizer.ggml.{key}"


def test_merge_of_unknown_tokens_is_refused(tmp_path: Path) -> None:
    source = GgufSource(write_tiny_gguf(tmp_path / "m.gguf", merges=["h zz"]))
    with pytest.raises(CheckpointFormatError, match="h zz"):
        source.files()
