# SPDX-License-Identifier: Apache-2.0
"""The forward pass: ids in, logits out. Knows no requests, no sampling, no sockets.

Source: Llama (Touvron et al., 2023), Qwen2 and Qwen3 technical reports, and what `traits.py` names; the arithmetic
follows `transformers`, which the tests compare with.
"""

from __future__ import annotations

import torch
from torch.nn.functional import embedding, gelu, linear, rms_norm, silu

from serverlessllm.engine.llama.attention import attend
from serverlessllm.engine.llama.batch import ForwardBatch
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.rope import RopeTable, rotate_
from serverlessllm.engine.llama.sliding import narrowed
from serverlessllm.engine.llama.weights import LayerWeights, LlamaWeights


class LlamaModel:
    """A model bound to its weights and to the cache of its sequences."""

    def __init__(self, config: LlamaConfig, weights: LlamaWeights, cache: KvCache, rope: RopeTable) -> None:
        self._config = config
        self._weights = weights
        self._cache = cache
        self._rope = rope
        local = config.traits.local_rope
        self._local_rope = rope if local is None else rope.sibling(local)

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """Logits (num_sequences, vocab_size) of the batch's last rows, in the compute dtype.

        Writes the keys and values of every row into the cache.
        """
        logits = linear(self.states(batch), self._weights.head)
        cap = self._config.traits.logit_cap
        return torch.tanh(logits / cap) * cap if cap else logits

    def states(self, batch: ForwardBatch) -> torch.Tensor:
        """Normed states (num_sequences, hidden_size) of the batch's last rows; of all, padding too, without any.

        Writes the keys and values of every row into the cache.
        """
        config, traits = self._config, self._config.traits
        far = self._rope.rows(batch.positions, batch.positions_end)
        near, near_batch = far, batch
        if traits.windowed_layers:
            near_batch = narrowed(batch, traits.window_tokens, self._weights.embedding.dtype)
            if self._local_rope is not self._rope:
                near = self._local_rope.rows(batch.positions, batch.positions_end)
        hidden = embedding(batch.token_ids, self._weights.embedding)
        if traits.embedding_scale != 1.0:
            hidden = hidden * torch.tensor(traits.embedding_scale, dtype=hidden.dtype)
        last_layer = config.num_layers - 1
        for index, layer in enumerate(self._weights.layers):
            is_near = index in traits.windowed_layers
            angles = near if is_near else far
            attended = self._attention(index, layer, near_batch if is_near else batch, hidden, *angles)
            if index == last_layer and batch.last_rows is not None:
                hidden, attended = hidden[batch.last_rows], attended[batch.last_rows]
            hidden = self._block(layer, hidden, attended)
        return self._weights.final_norm(hidden)

    def _attention(
        self,
        index: int,
        layer: LayerWeights,
        batch: ForwardBatch,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> torch.Tensor:
        config = self._config
        projected = linear(layer.attention_norm(hidden), layer.qkv, layer.qkv_bias)
        heads = projected.view(-1, config.num_heads + 2 * config.num_kv_heads, config.head_dim)
        rotated = heads[:, : config.num_heads + config.num_kv_heads]
        if layer.qk_norm is not None:
            normed = rms_norm(rotated, (config.head_dim,), None, config.rms_norm_eps)
            torch.mul(normed, layer.qk_norm, out=rotated)
        rotate_(rotated, cos, sin)
        rows = heads[: batch.num_rows, config.num_heads :]
        rows = rows.view(batch.num_rows, 2, config.num_kv_heads, config.head_dim)
        self._cache.write(index, batch.slots, batch.cached_positions, rows)
        return attend(config, self._cache, index, batch, heads)

    def _block(self, layer: LayerWeights, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """What follows attention in a layer: the projection back, and the MLP, each added to what came in."""
        if layer.post_attention_norm is None or layer.post_mlp_norm is None:
            hidden = torch.addmm(hidden, attended, layer.o_transposed)
            gate, up = linear(layer.mlp_norm(hidden), layer.gate_up).chunk(2, dim=-1)
            return torch.addmm(hidden, silu(gate) * up, layer.down_transposed)
        hidden = hidden + layer.post_attention_norm(attended @ layer.o_transposed)
        gate, up = linear(layer.mlp_norm(hidden), layer.gate_up).chunk(2, dim=-1)
        widened = gelu(gate, approximate="tanh") * up
        return hidden + layer.post_mlp_norm(widened @ layer.down_transposed)
