# SPDX-License-Identifier: Apache-2.0
"""Rope scaling and stop ids out of GGUF metadata."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.gguf_config import (
    GgufMetadata,
    build_config,
    build_generation_config,
    llama3_factors,
)

BASE: dict[str, object] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 131072,
    "llama.embedding_length": 2048,
    "llama.feed_forward_length": 8192,
    "llama.attention.head_count": 32,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 500000.0,
}


def _build(rope_factors: list[float] | None = None, /, **changes: object) -> dict[str, object]:
    values = {**BASE, **{key.replace("__", "."): value for key, value in changes.items()}}
    return build_config(
        GgufMetadata(values), vocab_size=8, is_tied=True, has_bias=False, rope_factors=rope_factors
    )


def test_llama3_factors_equal_those_of_transformers() -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=2048, num_attention_heads=32, rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = [500000.0 ** (-i / 64) for i in range(0, 64, 2)]
    expected = [a / b for a, b in zip(plain, scaled.tolist(), strict=True)]
    assert llama3_factors(500000.0, 64, 32.0) == pytest.approx(expected, rel=1e-5)


def test_llama3_scaling_is_recognised_from_its_factors() -> None:
    config = _build(llama3_factors(500000.0, 64, 32.0))
    assert config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_other_rope_factors_are_refused() -> None:
    with pytest.raises(UnsupportedCheckpointError, match="rope_freqs"):
        _build([1.0 + i for i in range(32)])


def test_linear_and_yarn_scaling_are_kept() -> None:
    yarn = _build(
        llama__rope__scaling__type="yarn",
        llama__rope__scaling__factor=4.0,
        llama__rope__scaling__original_context_length=4096,
    )
    assert yarn["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 4096,
    }
    linear = _build(llama__rope__scaling__type="linear", llama__rope__scaling__factor=2.0)
    assert linear["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize("value", [0, -1, True, "9", None, 1 << 40])
def test_absurd_sizes_name_their_key(value: object) -> None:
    with pytest.raises(CheckpointFormatError) as caught:
        _build(llama__block_count=value)
    assert caught.value.param == "llama.block_count"


def test_every_end_id_stops_generation() -> None:
    ids = {"eos": 7, "eot": 3, "eom": 7, "padding": 1}
    values = {**BASE, **{f"tokenizer.ggml.{key}_token_id": value for key, value in ids.items()}}
    assert build_generation_config(GgufMetadata(values)) == {"eos_token_id": [3, 7], "pad_token_id": 1}
