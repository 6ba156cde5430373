# SPDX-License-Identifier: Apache-2.0
"""Rebuild `config.json` and `generation_config.json` from a GGUF file's metadata.

Knows the llama, qwen2 and qwen3 architectures; no tensors' bytes but the rope factors, no tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError

ARCHITECTURES: Final = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_LLAMA3_ROPE: Final = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_STOP_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")


class GgufMetadata:
    """Typed access to metadata. Every accessor raises CheckpointFormatError naming the key."""

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values
        self.architecture = self.text("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise UnsupportedCheckpointError(
                f"general.architecture: {self.architecture[:40]!r} is not read; "
                f"GGUF files of {', '.join(ARCHITECTURES)} are",
                param="general.architecture",
            )

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise CheckpointFormatError(f"{key}: expected a string", param=key)
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        value = self._values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise CheckpointFormatError(f"{key}: expected a list of strings", param=key)
        return value

    def integers(self, key: str) -> list[int]:
        """A list of integers."""
        value = self._values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise CheckpointFormatError(f"{key}: expected a list of integers", param=key)
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            raise CheckpointFormatError(f"{key}: expected a positive integer, not {value!r}", param=key)
        return value

    def token_id(self, name: str) -> int | None:
        """`tokenizer.ggml.<name>`, or None when absent."""
        key = f"tokenizer.ggml.{name}"
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise CheckpointFormatError(f"{key}: expected a token id, not {value!r}", param=key)
        return value

    def flag(self, key: str) -> bool:
        """A boolean; absent is false."""
        return self._values.get(key) is True

    def number(self, key: str, default: float | None = None) -> float:
        """A finite float32, as the shortest decimal that names it: 9.999999747e-06 → 1e-05."""
        value = self._values.get(key, default)
        if not isinstance(value, float | int) or not math.isfinite(value):
            raise CheckpointFormatError(f"{key}: expected a finite number", param=key)
        return float(str(np.float32(value)))


def build_config(
    meta: GgufMetadata,
    *,
    vocab_size: int,
    is_tied: bool,
    has_bias: bool,
    rope_factors: Sequence[float] | None,
) -> dict[str, object]:
    """`config.json` without a dtype (the converter knows it). `rope_factors`: the file's `rope_freqs`."""
    prefix = meta.architecture
    hidden_size = meta.integer(f"{prefix}.embedding_length")
    num_heads = meta.integer(f"{prefix}.attention.head_count")
    head_dim = meta.integer(f"{prefix}.attention.key_length", hidden_size // num_heads)
    if meta.integer(f"{prefix}.attention.value_length", head_dim) != head_dim:
        raise UnsupportedCheckpointError("keys and values of different width", param=f"{prefix}.attention")
    config: dict[str, object] = {
        "architectures": [ARCHITECTURES[prefix]],
        "model_type": prefix,
        "hidden_size": hidden_size,
        "intermediate_size": meta.integer(f"{prefix}.feed_forward_length"),
        "num_hidden_layers": meta.integer(f"{prefix}.block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": meta.integer(f"{prefix}.attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "max_position_embeddings": meta.integer(f"{prefix}.context_length"),
        "rms_norm_eps": meta.number(f"{prefix}.attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.number(f"{prefix}.rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(meta, head_dim, rope_factors),
        "hidden_act": "silu",
        "attention_bias": has_bias,
        "tie_word_embeddings": is_tied,
        "vocab_size": vocab_size,
        "use_cache": True,
    }
    for name in ("bos", "eos"):
        if (token_id := meta.token_id(f"{name}_token_id")) is not None:
            config[f"{name}_token_id"] = token_id
    return config


def build_generation_config(meta: GgufMetadata) -> dict[str, object]:
    """`generation_config.json`: every id that ends an answer."""
    stops = [meta.token_id(key) for key in _STOP_KEYS]
    config: dict[str, object] = {"eos_token_id": sorted({stop for stop in stops if stop is not None})}
    for name, key in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        if (token_id := meta.token_id(key)) is not None:
            config[name] = token_id
    return config


def _rope_scaling(
    meta: GgufMetadata, head_dim: int, factors: Sequence[float] | None
) -> dict[str, object] | None:
    if factors is not None:
        return _llama3_scaling(meta, head_dim, factors)
    key = f"{meta.architecture}.rope.scaling"
    kind = meta.text(f"{key}.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise UnsupportedCheckpointError(f"{key}.type: unknown rope scaling {kind!r}", param=f"{key}.type")
    scaling: dict[str, object] = {"rope_type": kind, "factor": meta.number(f"{key}.factor")}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = meta.integer(f"{key}.original_context_length")
    return scaling


def _llama3_scaling(meta: GgufMetadata, head_dim: int, factors: Sequence[float]) -> dict[str, object]:
    """GGUF keeps only the resulting factor per frequency; accept Llama 3's parameters if they give the same."""
    scaling: dict[str, object] = {**_LLAMA3_ROPE, "factor": round(max(factors), 3)}
    theta = meta.number(f"{meta.architecture}.rope.freq_base", 10000.0)
    expected = llama3_factors(theta, head_dim, round(max(factors), 3))
    if len(factors) != len(expected) or not np.allclose(factors, expected, rtol=1e-4):
        raise UnsupportedCheckpointError(
            "rope_freqs.weight: these factors are not those of Llama 3's rope scaling",
            param="rope_freqs.weight",
        )
    return scaling


def llama3_factors(theta: float, head_dim: int, factor: float) -> list[float]:
    """By how much Llama 3 divides each of the head_dim / 2 rope frequencies.

    Source: `convert_hf_to_gguf.py` of llama.cpp and the Llama 3.1 reference code.
    """
    low, high, original = 1.0, 4.0, 8192.0
    found: list[float] = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < original / high:
            found.append(1.0)
        elif wavelength > original / low:
            found.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return found
