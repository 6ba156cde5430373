# SPDX-License-Identifier: Apache-2.0
"""The weights of a model, under the names of Hugging Face checkpoints. Knows no computation.

Shapes: matrices are (out_features, in_features). q, k, v are one matrix, and so are gate and up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.matrices import Matrix, Stack
from serverlessllm.engine.llama.norm import RmsNorm
from serverlessllm.engine.llama.region import RegionTensors


def _prefix(tensors: RegionTensors) -> str:
    """A checkpoint of the bare model, as embedding models are saved, has none."""
    return "" if "embed_tokens.weight" in tensors else "model."


def embedding_name(tensors: RegionTensors) -> str:
    """The name of the embedding matrix."""
    return f"{_prefix(tensors)}embed_tokens.weight"


def layer_prefix(tensors: RegionTensors, index: int) -> str:
    """What the names of a block's tensors begin with."""
    return f"{_prefix(tensors)}layers.{index}."


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One transformer block, or a rank's part of one. All matrices are views of the region.

    `qk_norm` (num_heads + num_kv_heads, head_dim): the norm weights of every query and key head.
    """

    attention_norm: RmsNorm
    qkv: Stack
    qk_norm: torch.Tensor | None
    o: Matrix
    mlp_norm: RmsNorm
    gate_up: Stack
    down: Matrix
    post_attention_norm: RmsNorm | None = None
    post_mlp_norm: RmsNorm | None = None


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """All weights. `head` is of `embedding` itself where they are tied, or a rank's rows of it.

    `logit_cap` 0: logits have no bound.
    """

    embedding: torch.Tensor
    layers: Sequence[LayerWeights]
    final_norm: RmsNorm
    head: Stack
    logit_cap: float = 0.0

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(num_rows, rows of the head) from `hidden` (num_rows, hidden_size), which went through all layers."""
        logits = self.head(self.final_norm(hidden))
        cap = self.logit_cap
        return torch.tanh(logits / cap) * cap if cap else logits


def read_weights(config: LlamaConfig, tensors: RegionTensors) -> LlamaWeights:
    """Raises: CheckpointFormatError naming a tensor that is missing or of another shape than `config` says."""
    return complete_weights(
        config, tensors, [read_layer(config, tensors, index) for index in range(config.num_layers)]
    )


def complete_weights(
    config: LlamaConfig, tensors: RegionTensors, layers: Sequence[LayerWeights]
) -> LlamaWeights:
    """All that is not in `layers`, read around them. Raises as `read_weights`."""
    embedding = tensors.tensor(embedding_name(tensors), (config.vocab_size, config.hidden_size))
    is_tied = config.tied_head or "lm_head.weight" not in tensors
    head = embedding if is_tied else tensors.tensor("lm_head.weight", (config.vocab_size, config.hidden_size))
    return LlamaWeights(
        embedding=embedding,
        layers=layers,
        final_norm=_norm(config, tensors, f"{_prefix(tensors)}norm.weight"),
        head=Stack((tensors.head_rows(head),)),
        logit_cap=config.traits.logit_cap,
    )


def read_layer(config: LlamaConfig, tensors: RegionTensors, index: int) -> LayerWeights:
    """One block's weights. Raises as `read_weights`."""
    prefix = layer_prefix(tensors, index)
    hidden, ffn = config.hidden_size, config.intermediate_size
    q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = f"{prefix}self_attn."
    qkv = [f"{attention}{part}_proj" for part in "qkv"]
    sizes = (q_size, kv_size, kv_size)
    is_gemma = config.traits.is_gemma
    mlp_norm = "pre_feedforward_layernorm" if is_gemma else "post_attention_layernorm"
    biases = None
    if config.has_qkv_bias:
        biases = tensors.stacked([f"{name}.bias" for name in qkv], [(size,) for size in sizes])
    weights = tensors.stacked([f"{name}.weight" for name in qkv], [(size, hidden) for size in sizes])
    gate_up = [f"{prefix}mlp.gate_proj.weight", f"{prefix}mlp.up_proj.weight"]
    return LayerWeights(
        attention_norm=_norm(config, tensors, f"{prefix}input_layernorm.weight"),
        qkv=Stack(weights, biases),
        qk_norm=_qk_norm(config, tensors, attention) if config.has_qk_norm else None,
        o=Matrix(tensors.tensor(f"{attention}o_proj.weight", (hidden, q_size)).t()),
        mlp_norm=_norm(config, tensors, f"{prefix}{mlp_norm}.weight"),
        gate_up=Stack(tensors.stacked(gate_up, [(ffn, hidden), (ffn, hidden)])),
        down=Matrix(tensors.tensor(f"{prefix}mlp.down_proj.weight", (hidden, ffn)).t()),
        post_attention_norm=_norm(config, tensors, f"{prefix}post_attention_layernorm.weight")
        if is_gemma
        else None,
        post_mlp_norm=_norm(config, tensors, f"{prefix}post_feedforward_layernorm.weight")
        if is_gemma
        else None,
    )


def _norm(config: LlamaConfig, tensors: RegionTensors, name: str) -> RmsNorm:
    weight = tensors.tensor(name, (config.hidden_size,))
    return RmsNorm.of(weight, config.rms_norm_eps, is_offset=config.traits.is_gemma)


def _qk_norm(config: LlamaConfig, tensors: RegionTensors, attention: str) -> torch.Tensor:
    """Per-head norm weights in one small copy, so that q and k are normalised by one kernel."""
    q = tensors.tensor(f"{attention}q_norm.weight", (config.head_dim,))
    k = tensors.tensor(f"{attention}k_norm.weight", (config.head_dim,))
    weights = torch.cat((q.expand(config.num_heads, -1), k.expand(config.num_kv_heads, -1)))
    return weights.float() + 1.0 if config.traits.is_gemma else weights
