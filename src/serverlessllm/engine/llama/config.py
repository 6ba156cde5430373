# SPDX-License-Identifier: Apache-2.0
"""The architecture of a Llama, Qwen2 or Qwen3 checkpoint, parsed from its `config.json`. Knows no tensors.

Keys that would change the computation are either understood or refused by name; keys that do not (file names,
initialisation, training) are ignored. Reads the layouts of transformers 4 (`rope_theta`, `rope_scaling`) and 5
(`rope_parameters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from serverlessllm.errors import UnsupportedCheckpointError

Family = Literal["llama", "qwen2", "qwen3"]
Architecture = Mapping[str, object]

_FAMILIES: Final[dict[str, Family]] = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_CAUSAL_LM: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_MAX_DIMENSION: Final = 1 << 24

_ONLY_VALUES: Final[dict[str, tuple[object, ...]]] = {
    "hidden_act": ("silu", "swish"),
    "mlp_bias": (False,),
    "attention_bias": (False,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1, 1.0),
    "pretraining_tp": (1,),
    "quantization_config": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "clip_qkv": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1, 1.0),
    "logits_scaling": (None, 1, 1.0),
    "attention_multiplier": (None,),
    "embedding_multiplier": (None, 1, 1.0),
    "residual_multiplier": (None, 1, 1.0),
    "no_rope_layers": (None, []),
    "is_encoder_decoder": (False,),
    "is_causal": (None, True),
    "use_bidirectional_attention": (None, False),
    "add_cross_attention": (False,),
}
"""Keys that change the computation, with the values under which it is the one implemented here."""


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding: base, and how its frequencies are stretched. `kind` default uses `theta` only."""

    kind: Literal["default", "linear", "llama3"]
    theta: float
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """All that shapes the computation. `head_dim` need not be hidden_size / num_heads."""

    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_tokens: int
    rms_norm_eps: float
    tied_head: bool
    rope: RopeConfig

    @property
    def has_qkv_bias(self) -> bool:
        """Qwen2 adds a bias to q, k and v."""
        return self.family == "qwen2"

    @property
    def has_qk_norm(self) -> bool:
        """Qwen3 normalises each head of q and k."""
        return self.family == "qwen3"

    @property
    def group_size(self) -> int:
        """Query heads per key-value head."""
        return self.num_heads // self.num_kv_heads

    @classmethod
    def parse(cls, architecture: Architecture) -> LlamaConfig:
        """Raises: UnsupportedCheckpointError naming the key that is missing, malformed or not implemented."""
        family = _family(architecture)
        _refuse_variants(architecture)
        hidden_size = _integer(architecture, "hidden_size")
        num_heads = _integer(architecture, "num_attention_heads")
        num_kv_heads = _integer(architecture, "num_key_value_heads", num_heads)
        if num_heads % num_kv_heads:
            raise _unsupported("num_key_value_heads", f"{num_kv_heads} does not divide {num_heads} heads")
        head_dim = _integer(architecture, "head_dim", hidden_size // num_heads)
        if head_dim % 2:
            raise _unsupported("head_dim", f"{head_dim} is odd; rotary embedding needs pairs")
        max_position_tokens = _integer(architecture, "max_position_embeddings")
        return cls(
            family=family,
            vocab_size=_integer(architecture, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_integer(architecture, "intermediate_size"),
            num_layers=_integer(architecture, "num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            max_position_tokens=max_position_tokens,
            rms_norm_eps=_number(architecture, "rms_norm_eps", 1e-6),
            tied_head=_boolean(architecture, "tie_word_embeddings", default=False),
            rope=_rope(architecture, max_position_tokens),
        )


def _unsupported(key: str, problem: str) -> UnsupportedCheckpointError:
    return UnsupportedCheckpointError(f"config.json: {key}: {problem}", param=key, source="engine")


def _family(architecture: Architecture) -> Family:
    model_type = architecture.get("model_type")
    family = _FAMILIES.get(str(model_type))
    if family is None:
        known = ", ".join(_FAMILIES)
        raise _unsupported("model_type", f"{model_type!r} is not run by the torch engine; it runs {known}")
    causal = _CAUSAL_LM[family]
    classes = architecture.get("architectures") or [causal]
    if classes not in ([causal], [causal.removesuffix("ForCausalLM") + "Model"]):
        raise _unsupported("architectures", f"{classes!r} is not [{causal!r}] or its bare model")
    return family


def _refuse_variants(architecture: Architecture) -> None:
    for key, allowed in _ONLY_VALUES.items():
        if key in architecture and architecture[key] not in allowed:
            raise _unsupported(key, f"{architecture[key]!r} is not implemented")
    layer_types = architecture.get("layer_types")
    if isinstance(layer_types, list) and set(layer_types) - {"full_attention"}:
        raise _unsupported("layer_types", "only full_attention is implemented")


def _rope(architecture: Architecture, max_position_tokens: int) -> RopeConfig:
    key = "rope_parameters" if architecture.get("rope_parameters") else "rope_scaling"
    scaling = architecture.get(key) or {}
    if not isinstance(scaling, Mapping):
        raise _unsupported(key, "expected a mapping")
    theta = _number(scaling, "rope_theta", _number(architecture, "rope_theta", 10000.0))
    if scaling.get("partial_rotary_factor", 1.0) != 1.0:
        raise _unsupported(f"{key}.partial_rotary_factor", "only whole heads are rotated here")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return RopeConfig("default", theta)
    if kind not in ("linear", "llama3"):
        raise _unsupported(f"{key}.rope_type", f"{kind!r} is not implemented; default, linear and llama3 are")
    factor = _number(scaling, "factor")
    if kind == "linear":
        return RopeConfig("linear", theta, factor)
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    if low >= high:
        raise _unsupported(f"{key}.high_freq_factor", f"{high} must exceed low_freq_factor {low}")
    original = _integer(scaling, "original_max_position_embeddings", max_position_tokens)
    return RopeConfig("llama3", theta, factor, low, high, original)


def _number(source: Architecture, key: str, default: float | None = None) -> float:
    value = source.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise _unsupported(key, f"{value!r} is not a positive number")
    return float(value)


def _integer(source: Architecture, key: str, default: int | None = None) -> int:
    value = source.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_DIMENSION:
        raise _unsupported(key, f"{value!r} is not a whole number between 1 and {_MAX_DIMENSION}")
    return value


def _boolean(source: Architecture, key: str, *, default: bool) -> bool:
    value = source.get(key, default)
    if not isinstance(value, bool):
        raise _unsupported(key, f"{value!r} is not true or false")
    return value
