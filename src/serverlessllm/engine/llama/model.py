# SPDX-License-Identifier: Apache-2.0
"""The forward pass: ids in, logits out. Knows no requests, no sampling, no sockets.

Source: Llama (Touvron et al., 2023), Qwen2 and Qwen3 technical reports, and what `traits.py` names; the arithmetic
follows `transformers`, which the tests compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch.nn.functional import embedding, gelu, rms_norm, silu

from serverlessllm.engine.llama.attention import attend
from serverlessllm.engine.llama.batch import ForwardBatch
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.lora import LoraRows, Part
from serverlessllm.engine.llama.matrices import Matrix
from serverlessllm.engine.llama.rank_group import RankGroup
from serverlessllm.engine.llama.rope import RopeTable, rotate_
from serverlessllm.engine.llama.sliding import narrowed
from serverlessllm.engine.llama.weights import LayerWeights, LlamaWeights


@dataclass(slots=True)
class Underway:
    """A forward pass between two blocks: `hidden` (num_padded_rows, hidden_size) went through `num_layers`.

    `far` and `near` are cosines and sines of layers without a window and with one, which see `near_batch`.
    """

    batch: ForwardBatch
    hidden: torch.Tensor
    far: tuple[torch.Tensor, torch.Tensor]
    near: tuple[torch.Tensor, torch.Tensor]
    near_batch: ForwardBatch
    lora: LoraRows | None = None
    num_layers: int = 0


class LlamaBlocks:
    """The blocks of a model, bound to the cache of its sequences; their weights come with each call.

    With `group`, weights and cache are one rank's part, `config` is `group.config_of` the model's.
    """

    def __init__(
        self, config: LlamaConfig, cache: KvCache, rope: RopeTable, group: RankGroup | None = None
    ) -> None:
        self._config = config
        self._group = group
        self._cache = cache
        self._rope = rope
        local = config.traits.local_rope
        self._local_rope = rope if local is None else rope.sibling(local)

    def begin(self, batch: ForwardBatch, hidden: torch.Tensor, lora: LoraRows | None = None) -> Underway:
        """A pass of which `hidden`, the embeddings of the batch's ids as stored, are there."""
        traits = self._config.traits
        far = self._rope.rows(batch.positions, batch.positions_end)
        near, near_batch = far, batch
        if traits.windowed_layers:
            near_batch = narrowed(batch, traits.window_tokens, hidden.dtype)
            if self._local_rope is not self._rope:
                near = self._local_rope.rows(batch.positions, batch.positions_end)
        if traits.embedding_scale != 1.0:
            hidden = hidden * torch.tensor(traits.embedding_scale, dtype=hidden.dtype)
        return Underway(batch, hidden, far, near, near_batch, lora)

    def advance(self, underway: Underway, layers: Sequence[LayerWeights]) -> None:
        """Go through the next blocks, whose weights are `layers`; after the last one only last rows are left.

        Writes the keys and values of every row into the cache.
        """
        last_layer = self._config.num_layers - 1
        batch, hidden, lora = underway.batch, underway.hidden, underway.lora
        for index, layer in enumerate(layers, underway.num_layers):
            is_near = index in self._config.traits.windowed_layers
            angles = underway.near if is_near else underway.far
            seen = underway.near_batch if is_near else batch
            attended = self._attention(index, layer, seen, hidden, *angles, lora)
            update = partial(lora.add_, layer=index) if lora is not None else _no_update
            if index == last_layer and batch.last_rows is not None:
                hidden, attended = hidden[batch.last_rows], attended[batch.last_rows]
                update = partial(update, last=True)
            hidden = self._block(layer, hidden, attended, update)
        underway.hidden = hidden
        underway.num_layers += len(layers)

    def _attention(
        self,
        index: int,
        layer: LayerWeights,
        batch: ForwardBatch,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        lora: LoraRows | None,
    ) -> torch.Tensor:
        config = self._config
        normed = layer.attention_norm(hidden)
        projected = layer.qkv(normed)
        if lora is not None:
            lora.add_(projected, normed, index, "qkv")
        heads = projected.view(-1, config.num_heads + 2 * config.num_kv_heads, config.head_dim)
        rotated = heads[:, : config.num_heads + config.num_kv_heads]
        if layer.qk_norm is not None:
            unit = rms_norm(rotated, (config.head_dim,), None, config.rms_norm_eps)
            torch.mul(unit, layer.qk_norm, out=rotated)
        rotate_(rotated, cos, sin)
        rows = heads[: batch.num_rows, config.num_heads :]
        rows = rows.view(batch.num_rows, 2, config.num_kv_heads, config.head_dim)
        self._cache.write(index, batch.slots, batch.cached_positions, rows)
        return attend(config, self._cache, index, batch, heads)

    def _block(
        self, layer: LayerWeights, hidden: torch.Tensor, attended: torch.Tensor, update: Update
    ) -> torch.Tensor:
        """What follows attention in a layer: the projection back, and the MLP, each added to what came in."""
        if layer.post_attention_norm is None or layer.post_mlp_norm is None:
            hidden = self._add(hidden, attended, layer.o, partial(update, part="o"))
            widened = self._widened(layer, hidden, update)
            return self._add(hidden, widened, layer.down, partial(update, part="down"))
        projected = self._project(attended, layer.o, partial(update, part="o"))
        hidden = hidden + layer.post_attention_norm(projected)
        widened = self._widened(layer, hidden, update)
        projected = self._project(widened, layer.down, partial(update, part="down"))
        return hidden + layer.post_mlp_norm(projected)

    def _add(
        self, hidden: torch.Tensor, inputs: torch.Tensor, matrix: Matrix, update: PartUpdate
    ) -> torch.Tensor:
        """`hidden` and the whole product of the row-parallel `matrix`."""
        if self._group is not None:
            return hidden + self._project(inputs, matrix, update)
        hidden = matrix.added(hidden, inputs)
        update(hidden, inputs)
        return hidden

    def _project(self, inputs: torch.Tensor, matrix: Matrix, update: PartUpdate) -> torch.Tensor:
        """The product of the row-parallel `matrix`, all ranks' parts of it together."""
        product = matrix.product(inputs)
        update(product, inputs)
        return product if self._group is None else self._group.summed(product)

    def _widened(self, layer: LayerWeights, hidden: torch.Tensor, update: Update) -> torch.Tensor:
        normed = layer.mlp_norm(hidden)
        gate_up = layer.gate_up(normed)
        update(gate_up, normed, part="gate_up")
        gate, up = gate_up.chunk(2, dim=-1)
        return (gelu(gate, approximate="tanh") if self._config.traits.is_gemma else silu(gate)) * up


class LlamaModel:
    """A model bound to its weights and to the cache of its sequences."""

    def __init__(
        self,
        config: LlamaConfig,
        weights: LlamaWeights,
        cache: KvCache,
        rope: RopeTable,
        group: RankGroup | None = None,
    ) -> None:
        """`group`: as `LlamaBlocks`."""
        self._config = config
        self._weights = weights
        self._blocks = LlamaBlocks(config, cache, rope, group)
        self._group = group

    def use(self, weights: LlamaWeights) -> None:
        """Compute with these from now on; they must be the same numbers."""
        self._weights = weights

    def forward(self, batch: ForwardBatch, lora: LoraRows | None = None) -> torch.Tensor:
        """Logits (num_sequences, vocab_size) of the batch's last rows, in the compute dtype. Of a group, rank 0 gets
        them in float32, and the others no row.

        Writes the keys and values of every row into the cache.
        """
        logits = self._weights.logits(self._through(batch, lora))
        return logits if self._group is None else self._group.joined(logits, self._config.vocab_size)

    def states(self, batch: ForwardBatch, lora: LoraRows | None = None) -> torch.Tensor:
        """Normed states (num_sequences, hidden_size) of the batch's last rows; of all, padding too, without any.

        Writes the keys and values of every row into the cache.
        """
        return self._weights.final_norm(self._through(batch, lora))

    def _through(self, batch: ForwardBatch, lora: LoraRows | None) -> torch.Tensor:
        underway = self._blocks.begin(batch, embedding(batch.token_ids, self._weights.embedding), lora)
        self._blocks.advance(underway, self._weights.layers)
        return underway.hidden


class Update(Protocol):
    """Adds what adapters add to a product of one layer, in place."""

    def __call__(self, product: torch.Tensor, inputs: torch.Tensor, *, part: Part) -> None: ...


class PartUpdate(Protocol):
    """An `Update` of one part."""

    def __call__(self, product: torch.Tensor, inputs: torch.Tensor) -> None: ...


def _no_update(product: torch.Tensor, inputs: torch.Tensor, *, part: Part, last: bool = False) -> None:
    """Rows without adapters."""
