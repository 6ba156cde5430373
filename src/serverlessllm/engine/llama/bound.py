# SPDX-License-Identifier: Apache-2.0
"""What the embedded engine has while weights are attached: cache, scheduler, and the model once its weights are here.

Knows no worker.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from serverlessllm.clock import Clock
from serverlessllm.engine.base import EngineLimits, Weights
from serverlessllm.engine.host_arena import HostArena, HostBytes, HostRegion
from serverlessllm.engine.llama.block_chain import BLOCK_TOKENS, num_blocks_for
from serverlessllm.engine.llama.block_pool import BlockPool
from serverlessllm.engine.llama.block_store import BlockStore, block_bytes, default_bytes
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.device_weights import DeviceWeights
from serverlessllm.engine.llama.embedder import Embedder
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.layer_stream import LayerStream
from serverlessllm.engine.llama.lora import LoraAdapter
from serverlessllm.engine.llama.model import LlamaBlocks, LlamaModel
from serverlessllm.engine.llama.packing import Packer, can_pack, default_budget_bytes
from serverlessllm.engine.llama.rank_group import RankGroup
from serverlessllm.engine.llama.rank_tensors import RankTensors
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.engine.llama.rope import RopeTable
from serverlessllm.engine.llama.sampling.grammar import AnswerGrammar, GrammarCompiler
from serverlessllm.engine.llama.sampling.sampler import Sampler
from serverlessllm.engine.llama.scheduler import Scheduler
from serverlessllm.engine.llama.weights import LlamaWeights, read_weights
from serverlessllm.errors import EngineError
from serverlessllm.wire.worker import Generate


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model computes, and the page-locked arena that its weights come from, if there is one.

    `group`: the ranks that compute it together, each a part of it.
    """

    dtype: torch.dtype
    device: torch.device
    arena: HostArena | None
    group: RankGroup | None = None


class Bound:
    """Of one attach: `stream` while weights arrive, `model` after that. `adapters` by revision."""

    model: LlamaModel

    def __init__(self, weights: Weights, limits: EngineLimits, place: Place, clock: Clock) -> None:
        """Raises: EngineError, UnsupportedCheckpointError, CheckpointFormatError."""
        dtype, device = place.dtype, place.device
        whole = LlamaConfig.parse(weights.layout.architecture)
        self.group = group = place.group
        self.config = config = whole if group is None else group.config_of(whole)
        own = config.max_position_tokens
        self.max_model_len_tokens = min(limits.max_model_len_tokens or own, own)
        num_blocks = _num_blocks(config, limits.kv_cache_bytes, place)
        self.max_model_len_tokens = min(self.max_model_len_tokens, num_blocks * BLOCK_TOKENS)
        # Whole blocks: a window is as long as the blocks of its sequence.
        window_tokens = num_blocks_for(self.max_model_len_tokens) * BLOCK_TOKENS
        embed_slot = limits.max_num_seqs
        self._cache = cache = KvCache(config, limits.max_num_seqs + 1, window_tokens, dtype, device)
        self.pool = BlockPool(num_blocks)
        self.store = BlockStore(config, num_blocks, cache, dtype, device)
        self.scheduler = Scheduler(self.pool, cache, limits.max_num_seqs)
        self._rope = RopeTable(config.rope, config.head_dim, self.max_model_len_tokens, dtype, device)
        self.sampler = Sampler(config.vocab_size)
        self.grammars: GrammarCompiler | None = None
        self.adapters: dict[str, LoraAdapter] = {}
        self.embedder = Embedder(
            cache, embed_slot, config.vocab_size, self.max_model_len_tokens, dtype, device
        )
        self.copied_bytes = 0
        self._packer: Packer | None = None
        self._packs_weights = limits.packs_weights and can_pack(dtype, device)
        self.stream: LayerStream | None = None
        self._arriving: DeviceWeights | None = None
        if weights.num_ready < len(weights.shards):
            blocks = LlamaBlocks(config, cache, self._rope)
            self.stream = LayerStream(config, weights, blocks, self.scheduler, dtype, clock, self.adapters)
        else:
            self._use(self._read(whole, weights, place))

    def begin_grammar(self, request: Generate) -> AnswerGrammar | None:
        """Raises: EngineError when no spellings came; as `GrammarCompiler.begin`."""
        if not request.grammar:
            return None
        if self.grammars is None:
            raise EngineError("a grammar came before the spellings of ids; send those first")
        return self.grammars.begin(request.grammar, request.generated_ids)

    def end_stream(self) -> None:
        """Go over to the whole model once nothing is left of the stream."""
        if self.stream is not None and self.stream.is_over and self.stream.weights is not None:
            self._use(self.stream.weights)
            self.stream = None

    def _use(self, weights: LlamaWeights) -> None:
        self.model = LlamaModel(self.config, weights, self._cache, self._rope, self.group)
        if self._packs_weights:
            self._packer = Packer(weights, default_budget_bytes())

    def note_step(self) -> None:
        """A decoding step is over: time to pack weights, perhaps."""
        if self._packer is not None and self._packer.note_step():
            self.model.use(self._packer.weights)

    def drop_packed(self) -> None:
        """Hold no copies of weights."""
        if self._packer is not None:
            self._packer.drop()
            self.model.use(self._packer.weights)

    def finish_copies(self) -> None:
        """Block until no copy reads the region any more."""
        if self._arriving is not None:
            self._arriving.finish()

    def _read(self, whole: LlamaConfig, weights: Weights, place: Place) -> LlamaWeights:
        """Views of the region on the CPU, copies of it on a GPU. `whole` describes all ranks' parts together."""
        if place.device.type == "cpu":
            tensors = RegionTensors(weights, place.dtype)
            if place.group is not None:
                tensors = RankTensors(whole, weights, place.dtype, place.group)
            llama_weights = read_weights(self.config, tensors)
            self.copied_bytes = tensors.copied_bytes
            return llama_weights
        if place.arena is None or weights.file is None:
            source: HostBytes = HostRegion(weights.region)
        else:
            source = place.arena.region(weights.file.extents)
        self._arriving = DeviceWeights(self.config, source, weights.layout, place.dtype, place.device)
        self.copied_bytes = self._arriving.copied_bytes
        return self._arriving.weights


def _num_blocks(config: LlamaConfig, kv_cache_bytes: int, place: Place) -> int:
    """Blocks of one replica; of a rank as many, each with its heads. Raises: EngineError when not one fits."""
    if place.device.type == "cpu":
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        memory_bytes, _ = torch.cuda.mem_get_info(place.device)
    one_bytes = block_bytes(config, place.dtype) * (1 if place.group is None else place.group.world_size)
    num_blocks = (kv_cache_bytes or default_bytes(memory_bytes)) // one_bytes
    if num_blocks < 1:
        raise EngineError(
            f"keys and values of {BLOCK_TOKENS} tokens take {one_bytes} bytes, engine.kv_cache_bytes allows "
            f"{kv_cache_bytes}; raise it",
            param="kv_cache_bytes",
        )
    return num_blocks
