# SPDX-License-Identifier: Apache-2.0
"""Rebuild `tokenizer.json` and `tokenizer_config.json` from a GGUF file's token list and merges.

Knows byte-level BPE (`tokenizer.ggml.model` = gpt2) with the pre-tokenizers listed below; no other kind.
Source of the splits: llama.cpp's `llama-vocab.cpp` and the tokenizer.json files of the models themselves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.gguf_config import GgufMetadata

_CONTROL, _USER_DEFINED = 3, 4
_LLAMA3_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT: Final = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True, slots=True)
class _Style:
    """How text is cut before BPE: a regex (None: GPT-2's own), single digits, Unicode normal form C."""

    split: str | None = None
    single_digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False


_STYLES: Final = {
    "gpt-2": _Style(),
    "smollm": _Style(single_digits=True),
    "llama-bpe": _Style(split=_LLAMA3_SPLIT, ignore_merges=True),
    "qwen2": _Style(split=_QWEN2_SPLIT, nfc=True),
}


def build_tokenizer_files(meta: GgufMetadata) -> dict[str, bytes]:
    """`tokenizer.json` and `tokenizer_config.json`.

    Raises: UnsupportedCheckpointError for another tokenizer or pre-tokenizer; CheckpointFormatError for lists
    that contradict each other.
    """
    model = meta.text("tokenizer.ggml.model")
    if model != "gpt2":
        raise UnsupportedCheckpointError(
            f"tokenizer.ggml.model: {model!r} is not read; byte-level BPE ('gpt2') is",
            param="tokenizer.ggml.model",
        )
    pre = meta.text("tokenizer.ggml.pre", "gpt-2")
    if pre not in _STYLES:
        raise UnsupportedCheckpointError(
            f"tokenizer.ggml.pre: {pre!r} is not read; {', '.join(_STYLES)} are", param="tokenizer.ggml.pre"
        )
    tokens = meta.texts("tokenizer.ggml.tokens")
    tokenizer = _build(meta, tokens, _STYLES[pre])
    config = json.dumps(_tokenizer_config(meta, tokens), ensure_ascii=False, indent=2)
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": config.encode()}


def _build(meta: GgufMetadata, tokens: list[str], style: _Style) -> Tokenizer:
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise CheckpointFormatError(
            "tokenizer.ggml.tokens: a token appears twice", param="tokenizer.ggml.tokens"
        )
    tokenizer = Tokenizer(BPE(vocab, _merges(meta, vocab), ignore_merges=style.ignore_merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(style)
    tokenizer.decoder = decoders.ByteLevel()
    if style.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens(_added_tokens(meta, tokens))
    bos = meta.token_id("bos_token_id")
    if meta.flag("tokenizer.ggml.add_bos_token") and bos is not None:
        text = _token(tokens, bos, "bos_token_id")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{text} $A", pair=f"{text} $A {text} $B", special_tokens=[(text, bos)]
        )
    return tokenizer


def _merges(meta: GgufMetadata, vocab: dict[str, int]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for merge in meta.texts("tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise CheckpointFormatError(
                f"tokenizer.ggml.merges: {merge[:80]!r} joins what is not in the token list",
                param="tokenizer.ggml.merges",
            )
        found.append((left, right))
    return found


def _pre_tokenizer(style: _Style) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=style.split is None)
    before: list[pre_tokenizers.PreTokenizer] = []
    if style.single_digits:
        before.append(pre_tokenizers.Digits(individual_digits=True))
    if style.split is not None:
        before.append(pre_tokenizers.Split(Regex(style.split), "isolated"))
    return pre_tokenizers.Sequence([*before, byte_level])


def _added_tokens(meta: GgufMetadata, tokens: list[str]) -> list[AddedToken]:
    kinds = meta.integers("tokenizer.ggml.token_type")
    if len(kinds) != len(tokens):
        raise CheckpointFormatError(
            f"tokenizer.ggml.token_type: {len(kinds)} types for {len(tokens)} tokens",
            param="tokenizer.ggml.token_type",
        )
    return [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (_CONTROL, _USER_DEFINED) and token
    ]


def _tokenizer_config(meta: GgufMetadata, tokens: list[str]) -> dict[str, object]:
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": meta.integer(f"{meta.architecture}.context_length"),
        "add_bos_token": meta.flag("tokenizer.ggml.add_bos_token"),
        "clean_up_tokenization_spaces": False,
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        if (token_id := meta.token_id(f"{key}_token_id")) is not None:
            config[f"{name}_token"] = _token(tokens, token_id, f"{key}_token_id")
    if template := meta.text("tokenizer.chat_template", ""):
        config["chat_template"] = template
    return config


def _token(tokens: list[str], token_id: int, name: str) -> str:
    if token_id >= len(tokens):
        raise CheckpointFormatError(
            f"tokenizer.ggml.{name}: {token_id} is not in the token list", param=f"tokenizer.ggml.{name}"
        )
    return tokens[token_id]
