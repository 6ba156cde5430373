# SPDX-License-Identifier: Apache-2.0
"""What sets families apart from Llama's computation: windows, norms, scales, caps. Parsed; computes nothing.

    mistral   every layer attends to the last `sliding_window` ids, where configured
    gemma2    norms scale by (1 + w), before and after attention and MLP; embeddings times sqrt(hidden_size); GELU;
              every second layer has a window; scores and logits are capped by tanh
    gemma3    as gemma2, without caps unless configured; q and k are normed; layers with a window have a rotation of
              their own; text models only

Source: Mistral 7B (Jiang et al., 2023), Gemma 2 (2024) and Gemma 3 (2025) technical reports; `transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from serverlessllm.engine.llama.architecture_fields import Architecture, integer, number, unsupported
from serverlessllm.engine.llama.rope_config import RopeConfig

Family = Literal["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"]
GEMMAS: Final = ("gemma2", "gemma3_text")
_PATTERN: Final[dict[str, int]] = {"gemma2": 2, "gemma3_text": 6}
"""Every so manieth layer attends to everything, where `layer_types` does not say."""
_GELU: Final = ("gelu_pytorch_tanh",)
_LAYER_TYPES: Final = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class Traits:
    """The defaults are Llama's. `window_tokens` 0: no layer has a window; `windowed_layers` says which have it.

    `query_scale` None: 1 / sqrt(head_dim). `score_cap` and `logit_cap` 0: none. `local_rope`: with a window.
    """

    window_tokens: int = 0
    windowed_layers: frozenset[int] = frozenset()
    is_gemma: bool = False
    embedding_scale: float = 1.0
    query_scale: float | None = None
    score_cap: float = 0.0
    logit_cap: float = 0.0
    local_rope: RopeConfig | None = None

    @classmethod
    def parse(cls, family: Family, architecture: Architecture, num_layers: int, hidden_size: int) -> Traits:
        """Raises: UnsupportedCheckpointError naming the key that is malformed or not implemented."""
        if family == "mistral":
            window = _optional_integer(architecture, "sliding_window")
            return cls(window, frozenset(range(num_layers) if window else ()))
        if family not in GEMMAS:
            return cls()
        for key in ("hidden_activation", "hidden_act"):
            if architecture.get(key) is not None and architecture[key] not in _GELU:
                raise unsupported(
                    key, f"{architecture[key]!r} is not implemented for {family}; {_GELU[0]} is"
                )
        is_gemma2 = family == "gemma2"
        return cls(
            window_tokens=_optional_integer(architecture, "sliding_window"),
            windowed_layers=_windowed_layers(family, architecture, num_layers),
            is_gemma=True,
            embedding_scale=hidden_size**0.5,
            query_scale=number(architecture, "query_pre_attn_scalar", 256) ** -0.5,
            score_cap=_cap(architecture, "attn_logit_softcapping", 50.0 if is_gemma2 else 0.0),
            logit_cap=_cap(architecture, "final_logit_softcapping", 30.0 if is_gemma2 else 0.0),
            local_rope=None if is_gemma2 else _local_rope(architecture),
        )


def global_rope(family: Family, architecture: Architecture, max_position_tokens: int) -> RopeConfig:
    """The rotation of layers without a window. Raises as `RopeConfig.parse`."""
    if family != "gemma3_text":
        return RopeConfig.parse(architecture, max_position_tokens)
    own = _by_layer_type(architecture, "full_attention")
    if own is None:
        return RopeConfig.parse({"rope_theta": 1e6} | dict(architecture), max_position_tokens)
    return RopeConfig.parse({"rope_theta": 1e6, "rope_parameters": own}, max_position_tokens)


def _local_rope(architecture: Architecture) -> RopeConfig:
    own = _by_layer_type(architecture, "sliding_attention")
    theta = number(architecture, "rope_local_base_freq", 1e4)
    if own is None:
        return RopeConfig("default", theta)
    return RopeConfig.parse({"rope_theta": theta, "rope_parameters": own}, 1)


def _by_layer_type(architecture: Architecture, layer_type: str) -> Mapping[str, object] | None:
    """transformers 5 nests `rope_parameters` by layer type."""
    nested = architecture.get("rope_parameters")
    own = nested.get(layer_type) if isinstance(nested, Mapping) else None
    return own if isinstance(own, Mapping) else None


def _windowed_layers(family: str, architecture: Architecture, num_layers: int) -> frozenset[int]:
    layer_types = architecture.get("layer_types")
    if layer_types is None:
        pattern = integer(architecture, "sliding_window_pattern", _PATTERN[family])
        return frozenset(index for index in range(num_layers) if (index + 1) % pattern)
    if (
        not isinstance(layer_types, list)
        or len(layer_types) != num_layers
        or set(layer_types) - set(_LAYER_TYPES)
    ):
        raise unsupported("layer_types", f"expected {num_layers} of {' and '.join(_LAYER_TYPES)}")
    return frozenset(index for index, kind in enumerate(layer_types) if kind == "sliding_attention")


def _optional_integer(architecture: Architecture, key: str) -> int:
    return 0 if architecture.get(key) is None else integer(architecture, key)


def _cap(architecture: Architecture, key: str, default: float) -> float:
    """null says none; a key that is not there says the family's default."""
    if key in architecture and architecture[key] is None:
        return 0.0
    return number(architecture, key, default) if key in architecture or default else 0.0
