# SPDX-License-Identifier: Apache-2.0
"""The architecture of a checkpoint of a family that runs here, parsed from its `config.json`. Knows no tensors.

Keys that would change the computation are either understood or refused by name; keys that do not (file names,
initialisation, training) are ignored. Reads the layouts of transformers 4 (`rope_theta`, `rope_scaling`) and 5
(`rope_parameters`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, get_args

from serverlessllm.engine.llama.architecture_fields import (
    Architecture,
    boolean,
    integer,
    number,
    unsupported,
)
from serverlessllm.engine.llama.rope_config import RopeConfig
from serverlessllm.engine.llama.traits import GEMMAS, Family, Traits, global_rope

__all__ = ["LlamaConfig", "RopeConfig"]

_CAUSAL_LM: Final[dict[Family, str]] = {
    "mistral": "MistralForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

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
_GEMMAS_OWN: Final = ("hidden_act", "attn_logit_softcapping", "final_logit_softcapping")
"""Of these, what `Traits` reads for the Gemma families."""


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
    traits: Traits = Traits()

    @property
    def has_qkv_bias(self) -> bool:
        """Qwen2 adds a bias to q, k and v."""
        return self.family == "qwen2"

    @property
    def has_qk_norm(self) -> bool:
        """Qwen3 and Gemma 3 normalise each head of q and k."""
        return self.family in ("qwen3", "gemma3_text")

    @property
    def group_size(self) -> int:
        """Query heads per key-value head."""
        return self.num_heads // self.num_kv_heads

    @classmethod
    def parse(cls, architecture: Architecture) -> LlamaConfig:
        """Raises: UnsupportedCheckpointError naming the key that is missing, malformed or not implemented."""
        family = _family(architecture)
        _refuse_variants(family, architecture)
        hidden_size = integer(architecture, "hidden_size")
        num_layers = integer(architecture, "num_hidden_layers")
        num_heads = integer(architecture, "num_attention_heads")
        num_kv_heads = integer(architecture, "num_key_value_heads", num_heads)
        if num_heads % num_kv_heads:
            raise unsupported("num_key_value_heads", f"{num_kv_heads} does not divide {num_heads} heads")
        head_dim = integer(architecture, "head_dim", hidden_size // num_heads)
        if head_dim % 2:
            raise unsupported("head_dim", f"{head_dim} is odd; rotary embedding needs pairs")
        max_position_tokens = integer(architecture, "max_position_embeddings")
        return cls(
            family=family,
            vocab_size=integer(architecture, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=integer(architecture, "intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            max_position_tokens=max_position_tokens,
            rms_norm_eps=number(architecture, "rms_norm_eps", 1e-6),
            tied_head=boolean(architecture, "tie_word_embeddings", default=family in GEMMAS),
            rope=global_rope(family, architecture, max_position_tokens),
            traits=Traits.parse(family, architecture, num_layers, hidden_size),
        )


def _family(architecture: Architecture) -> Family:
    model_type = architecture.get("model_type")
    families: tuple[Family, ...] = get_args(Family)
    family = next((known for known in families if known == model_type), None)
    if family is None:
        known = ", ".join(families)
        raise unsupported("model_type", f"{model_type!r} is not run by the torch engine; it runs {known}")
    causal = _CAUSAL_LM[family]
    classes = architecture.get("architectures") or [causal]
    if classes not in ([causal], [causal.removesuffix("ForCausalLM") + "Model"]):
        raise unsupported("architectures", f"{classes!r} is not [{causal!r}] or its bare model")
    return family


def _refuse_variants(family: Family, architecture: Architecture) -> None:
    for key, allowed in _ONLY_VALUES.items():
        if family in GEMMAS and key in _GEMMAS_OWN:
            continue
        if key in architecture and architecture[key] not in allowed:
            raise unsupported(key, f"{architecture[key]!r} is not implemented")
    layer_types = architecture.get("layer_types")
    if family not in GEMMAS and isinstance(layer_types, list) and set(layer_types) - {"full_attention"}:
        raise unsupported("layer_types", "only full_attention is implemented")
