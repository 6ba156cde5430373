# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from serverlessllm.engine.llama.config import LlamaConfig, RopeConfig
from serverlessllm.errors import UnsupportedCheckpointError

BASE: dict[str, object] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_config_without_optional_keys_takes_the_families_defaults() -> None:
    minimal = {key: value for key, value in BASE.items() if key not in ("num_key_value_heads", "rope_theta")}
    config = LlamaConfig.parse(minimal)
    assert (config.num_kv_heads, config.head_dim, config.tied_head) == (4, 16, False)
    assert config.rope == RopeConfig("default", 10000.0)


def test_rope_is_read_alike_from_old_and_new_keys() -> None:
    old = LlamaConfig.parse({**BASE, "rope_scaling": LLAMA3})
    new = LlamaConfig.parse(
        {**BASE, "rope_theta": None, "rope_parameters": {**LLAMA3, "rope_theta": 5000.0}},
    )
    assert old.rope == new.rope == RopeConfig("llama3", 5000.0, 8.0, 1.0, 4.0, 64)


def test_linear_rope_is_read_from_the_oldest_key() -> None:
    config = LlamaConfig.parse({**BASE, "rope_scaling": {"type": "linear", "factor": 2}})
    assert config.rope == RopeConfig("linear", 5000.0, 2.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "mixtral"),
        ("architectures", ["LlamaForSequenceClassification"]),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("use_sliding_window", True),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("quantization_config", {"bits": 4}),
        ("hidden_size", "64"),
        ("hidden_size", -1),
        ("num_hidden_layers", True),
        ("num_key_value_heads", 3),
        ("vocab_size", 1 << 40),
        ("rms_norm_eps", float("nan")),
        ("tie_word_embeddings", "yes"),
        ("head_dim", 7),
    ],
)
def test_config_that_asks_for_another_computation_is_refused_by_key(key: str, value: object) -> None:
    with pytest.raises(UnsupportedCheckpointError) as refused:
        LlamaConfig.parse({**BASE, key: value})
    assert refused.value.param == key
    assert key in refused.value.message


@pytest.mark.parametrize(
    "rope", [{"rope_type": "yarn", "factor": 2.0}, {"rope_type": "dynamic"}, {"type": "longrope"}]
)
def test_unknown_rope_scaling_is_refused_by_key(rope: dict[str, object]) -> None:
    with pytest.raises(UnsupportedCheckpointError) as refused:
        LlamaConfig.parse({**BASE, "rope_scaling": rope})
    assert refused.value.param == "rope_scaling.rope_type"


def test_missing_key_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedCheckpointError, match="vocab_size"):
        LlamaConfig.parse({key: value for key, value in BASE.items() if key != "vocab_size"})
