# SPDX-License-Identifier: Apache-2.0
"""First passes of a model whose weights are still arriving: block i is computed as soon as its shard is there.

    bytes                     → allows
    rows of a prompt, early   its pass begins, with embeddings that nobody vouches for yet
    embeddings                its pass begins
    shard of block i          block i of every pass
    everything                early rows are compared with the real ones: a pass on wrong ones is computed again;
                              then logits, and the stream is over

A prompt has a pass of its own, so that it can be dropped between two blocks. No id leaves before all is there, so
that answers are those of a model that was whole from the start. Knows no sockets and no loader.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn.functional import embedding

from serverlessllm.clock import Clock
from serverlessllm.engine.base import Weights
from serverlessllm.engine.llama.batch import ForwardBatch, build_batch
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.early_rows import EarlyRows
from serverlessllm.engine.llama.lora import LoraAdapter, LoraRows
from serverlessllm.engine.llama.model import LlamaBlocks, Underway
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.engine.llama.scheduler import Scheduler, Step
from serverlessllm.engine.llama.sequence import Sequence
from serverlessllm.engine.llama.weights import (
    LayerWeights,
    LlamaWeights,
    complete_weights,
    embedding_name,
    layer_prefix,
    read_layer,
)

PASS_TOKENS: Final = 4096
"""The most of one prompt that goes through the blocks as they come; a longer one's rest follows once all is there."""
QUEUE_TOKENS: Final = 8 * PASS_TOKENS
"""Ids of all passes together."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Pass:
    """`underway` is None until the embeddings are there; `early` are those that have to be proven."""

    sequence: Sequence
    num_tokens: int
    batch: ForwardBatch
    token_ids: list[int]
    lora: LoraRows | None
    underway: Underway | None = None
    early: torch.Tensor | None = None
    computed_s: float = 0.0

    @property
    def num_layers(self) -> int:
        return -1 if self.underway is None else self.underway.num_layers


class LayerStream:
    """From the attach to the first ids. `weights` are complete once `is_whole`. One thread calls everything."""

    def __init__(
        self,
        config: LlamaConfig,
        weights: Weights,
        blocks: LlamaBlocks,
        scheduler: Scheduler,
        dtype: torch.dtype,
        clock: Clock,
        adapters: Mapping[str, LoraAdapter],
    ) -> None:
        """`adapters` are those that are bound, by name.

        Raises: CheckpointFormatError, UnsupportedCheckpointError for a checkpoint that cannot be run.
        """
        dry = RegionTensors(weights, dtype, is_dry=True)
        complete_weights(config, dry, [read_layer(config, dry, i) for i in range(config.num_layers)])
        self._config = config
        self._tensors = RegionTensors(weights, dtype)
        self._blocks = blocks
        self._scheduler = scheduler
        self._dtype = dtype
        self._clock = clock
        self._adapters = adapters
        self._embedding = embedding_name(dry)
        self._num_shards = len(weights.shards)
        prefixes = [layer_prefix(dry, index) for index in range(config.num_layers)]
        self._shards_for_layer = [_num_shards_for(weights, prefix) for prefix in prefixes]
        self._shards_for_embedding = _num_shards_for(weights, self._embedding)
        shape = (config.vocab_size, config.hidden_size)
        self._rows = EarlyRows(self._tensors.place(self._embedding, shape), self._tensors)
        self._table: torch.Tensor | None = None
        self._layers: list[LayerWeights] = []
        self._passes: list[_Pass] = []
        self.weights: LlamaWeights | None = None
        self.arrived(weights.num_ready)

    @property
    def is_whole(self) -> bool:
        """Whether all weights are there."""
        return self.weights is not None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do here: weights are whole, and no pass is under way."""
        return self.is_whole and not self._passes

    @property
    def has_work(self) -> bool:
        """Whether `advance` would compute something."""
        return any(self._can_advance(one) for one in self._passes)

    def arrived(self, num_shards: int) -> None:
        """The first `num_shards` are whole."""
        if self._table is None and num_shards >= self._shards_for_embedding:
            shape = (self._config.vocab_size, self._config.hidden_size)
            self._table = self._tensors.tensor(self._embedding, shape)
        while len(self._layers) < self._config.num_layers:
            if num_shards < self._shards_for_layer[len(self._layers)]:
                break
            self._layers.append(read_layer(self._config, self._tensors, len(self._layers)))
        if num_shards >= self._num_shards and self.weights is None:
            self.weights = complete_weights(self._config, self._tensors, self._layers)

    def admit(self) -> None:
        """Begin passes for what is queued. Once the weights are whole, what comes is no business of the stream."""
        if self.is_whole:
            return
        known = {one.sequence for one in self._passes}
        for sequence in self._scheduler.admit(self._clock.monotonic_s(), QUEUE_TOKENS):
            if sequence not in known:
                self._passes.append(self._begin(sequence))

    def drop_cancelled(self) -> None:
        """Forget passes whose sequences are gone, and begin those that they made room for."""
        left = set(self._scheduler)
        self._passes = [one for one in self._passes if one.sequence in left]
        self.admit()

    def take_wanted(self) -> list[tuple[int, int]]:
        """Places in the region of rows that passes wait for; each is named once."""
        return [] if self._table is not None else self._rows.take_wanted()

    def take_early(self, offset: int, data: bytes) -> None:
        """Rows from `offset` of the region on."""
        self._rows.put(offset, data)

    def advance(self) -> tuple[Step, torch.Tensor] | None:
        """Go one block further with the pass that is furthest behind; its step and logits when it is through."""
        one = min(
            (found for found in self._passes if self._can_advance(found)),
            key=lambda found: found.num_layers,
            default=None,
        )
        if one is None:
            return None
        started_s = self._clock.monotonic_s()
        logits = self._go_on(one)
        now_s = self._clock.monotonic_s()
        one.computed_s += now_s - started_s
        if logits is None:
            return None
        self._passes.remove(one)
        one.sequence.note_computed(now_s, one.computed_s)
        return Step([], [(one.sequence, one.num_tokens)]), logits

    def _begin(self, sequence: Sequence) -> _Pass:
        prompt = sequence.as_prompt(min(PASS_TOKENS, sequence.num_left))
        batch = build_batch([], [prompt], self._dtype)
        token_ids: list[int] = batch.token_ids.tolist()
        self._rows.want(token_ids)
        lora = LoraRows.of([], [(prompt, sequence.request.adapter)], self._adapters)
        return _Pass(sequence, len(prompt.token_ids), batch, token_ids, lora)

    def _can_advance(self, one: _Pass) -> bool:
        if one.underway is None:
            return self._table is not None or self._rows.has(one.token_ids)
        return self.is_whole or one.underway.num_layers < len(self._layers)

    def _go_on(self, one: _Pass) -> torch.Tensor | None:
        if one.underway is None:
            if self._table is None:
                one.early = self._rows.gather(one.token_ids)
            one.underway = self._blocks.begin(one.batch, self._embed(one), one.lora)
        elif one.underway.num_layers < len(self._layers):
            number = one.underway.num_layers
            self._blocks.advance(one.underway, self._layers[number : number + 1])
        if self.weights is None or one.underway.num_layers < self._config.num_layers:
            return None
        if one.early is not None and not torch.equal(
            one.early, embedding(one.batch.token_ids, self._table_of())
        ):
            _log.warning("a source gave wrong embeddings ahead of their digest; computing again")
            one.underway = one.early = None
            return None
        return self.weights.logits(one.underway.hidden)

    def _embed(self, one: _Pass) -> torch.Tensor:
        return one.early if one.early is not None else embedding(one.batch.token_ids, self._table_of())

    def _table_of(self) -> torch.Tensor:
        if self._table is None:
            raise RuntimeError("the embeddings are not there yet")
        return self._table


def _num_shards_for(weights: Weights, prefix: str) -> int:
    """How many shards must have arrived before every tensor of that prefix is there."""
    starts = {start: (start + nbytes, number) for number, (start, nbytes) in enumerate(weights.shards, 1)}
    needed = 0
    for tensor in weights.layout.tensors:
        if tensor.name.startswith(prefix):
            inside = [n for start, (end, n) in starts.items() if start <= tensor.offset < end]
            needed = max([needed, *inside] if inside else [len(weights.shards)])
    return needed
