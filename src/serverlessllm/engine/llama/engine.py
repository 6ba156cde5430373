# SPDX-License-Identifier: Apache-2.0
"""The embedded engine: bind, add, step, cancel. Implements `engine.base.Engine`; knows ids, never text.

One step computes one forward pass: all running sequences by one id, and pieces of the prompts that were admitted,
side by side, so that the weights are read once for both. `scheduler.py` decides which. While weights are still
arriving, `layer_stream.py` does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.engine.base import BindReport, EngineLimits, Weights
from serverlessllm.engine.host_arena import HostArena, HostBytes, HostRegion
from serverlessllm.engine.llama.batch import build_batch
from serverlessllm.engine.llama.block_chain import BLOCK_TOKENS, num_blocks_for
from serverlessllm.engine.llama.block_pool import BlockPool
from serverlessllm.engine.llama.block_store import BlockStore, block_bytes, default_bytes
from serverlessllm.engine.llama.block_table import BlockTable
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.device_weights import DeviceWeights
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.kv_memory import CPU
from serverlessllm.engine.llama.layer_stream import LayerStream
from serverlessllm.engine.llama.model import LlamaBlocks, LlamaModel
from serverlessllm.engine.llama.priming import prime_kernels
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.engine.llama.request_check import check_request
from serverlessllm.engine.llama.rope import RopeTable
from serverlessllm.engine.llama.sampling.logprobs import RowLogprobs
from serverlessllm.engine.llama.sampling.sampler import Sampler
from serverlessllm.engine.llama.scheduler import Scheduler, Step
from serverlessllm.engine.llama.sequence import Sequence
from serverlessllm.engine.llama.weights import LlamaWeights, read_weights
from serverlessllm.errors import EngineError, InvalidRequestError
from serverlessllm.wire.worker import Generate, TokenEvent, TokenLogprobs

_DTYPES: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class LlamaEngine:
    """`Engine` and, on the CPU, `StreamingEngine` for Llama, Qwen2 and Qwen3. One thread calls everything."""

    name: str = "torch"

    @property
    def can_stream(self) -> bool:
        """See `StreamingEngine`: on a GPU a whole region is copied block by block instead."""
        return self._device.type == "cpu"

    def __init__(self, dtype: str, clock: Clock, device: torch.device = CPU, arena_path: str = "") -> None:
        """`arena_path` is page-locked by `prime` where `device` is a GPU."""
        if dtype not in _DTYPES:
            raise EngineError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}", param="dtype")
        self._device = device
        self._arena_path = arena_path
        self._arena: HostArena | None = None
        self.dtype: str = dtype
        self._torch_dtype = _DTYPES[dtype]
        self._clock = clock
        self._bound: _Bound | None = None
        self._is_quiesced = False
        self._num_added = 0
        self._block_changes: tuple[list[bytes], list[bytes]] = [], []

    def prime(self) -> None:
        """Warm allocator, thread pool and kernels (~0.2 s, once per process); on a GPU, page-lock the arena too.

        Raises: EngineError when the arena cannot be page-locked.
        """
        if self._device.type == "cuda":
            # cuDNN plans its attention anew (~50 ms) for each length of the keys, which grows with every token.
            torch.backends.cuda.enable_cudnn_sdp(False)
        prime_kernels(self._torch_dtype, self._device)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            if self._arena_path and self._arena is None:
                self._arena = HostArena.open(Path(self._arena_path))

    @torch.inference_mode()
    def attach_weights(self, weights: Weights, limits: EngineLimits, options: dict[str, float]) -> BindReport:
        """Build the model as views of `weights.region`; `options` are for other engines and ignored.

        Raises: EngineError when something is attached already or keys and values do not fit the address space;
        UnsupportedCheckpointError, CheckpointFormatError when the checkpoint cannot be run. Then nothing is held.
        """
        if self._bound is not None:
            raise EngineError("weights are attached already; detach them first")
        if limits.max_num_seqs < 1:
            raise EngineError("max_num_seqs must be at least 1", param="max_num_seqs")
        place = _Place(self._torch_dtype, self._device, self._arena)
        self._bound = bound = _Bound(weights, limits, place, self._clock)
        return BindReport(bound.max_model_len_tokens, bound.copied_bytes, BLOCK_TOKENS)

    def detach_weights(self) -> None:
        """Drop every view and every request; afterwards nothing here exports the region's buffer."""
        if self._bound is not None:
            self._bound.finish_copies()
        self._bound = None
        self._is_quiesced = False

    def quiesce(self) -> None:
        """Stop computing until `resume`; requests may still be added and cancelled."""
        self._is_quiesced = True

    def resume(self) -> None:
        """Compute again."""
        self._is_quiesced = False

    def add(self, request: Generate) -> None:
        """Queue a request; `max_tokens` counts `generated_ids` too.

        Raises: ContextLengthError, InvalidRequestError (a field, or a request that is known already); EngineError
        when no weights are attached.
        """
        bound = self._require_bound()
        check_request(
            request,
            vocab_size=bound.config.vocab_size,
            max_model_len_tokens=bound.max_model_len_tokens,
        )
        key = (request.request_id, request.choice)
        if any(known.key == key for known in bound.scheduler):
            raise InvalidRequestError(
                f"request {request.request_id!r} is running already", param="request_id"
            )
        table = BlockTable(bound.pool, bound.store, request.cache_salt)
        bound.scheduler.add(Sequence(request, table, self._num_added, self._clock.monotonic_s()))
        self._num_added += 1
        if bound.stream is not None:
            bound.stream.admit()

    def cancel(self, request_id: str, choice: int | None = None) -> None:
        """Drop one choice of a request, or all, in any phase; slots and blocks are free for the next step."""
        if self._bound is not None:
            self._bound.scheduler.cancel(request_id, choice)
            if self._bound.stream is not None:
                self._bound.stream.drop_cancelled()
                self._bound.end_stream()

    def shards_arrived(self, num_shards: int) -> None:
        """The first `num_shards` of the attached weights are whole."""
        bound = self._require_bound()
        if bound.stream is not None:
            bound.stream.arrived(num_shards)
            bound.end_stream()

    def take_wanted(self) -> list[tuple[int, int]]:
        """Embedding rows that prompts wait for, as (offset, nbytes) in the region; each is named once."""
        stream = None if self._bound is None else self._bound.stream
        return [] if stream is None else stream.take_wanted()

    def take_early(self, offset: int, data: bytes) -> None:
        """Embedding rows that were wanted; they are proven before the first id leaves."""
        stream = None if self._bound is None else self._bound.stream
        if stream is not None:
            stream.take_early(offset, data)

    @property
    def has_work(self) -> bool:
        """Whether `step` would compute something."""
        if self._is_quiesced or self._bound is None:
            return False
        stream = self._bound.stream
        return self._bound.scheduler.has_work if stream is None else stream.has_work

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """One id for every running request whose prompt is computed; none while weights arrive.

        Raises: EngineError for a leaked block.
        """
        self._block_changes = [], []
        if not self.has_work:
            return []
        bound = self._require_bound()
        if bound.stream is None:
            step = bound.scheduler.plan(self._clock.monotonic_s())
            return self._deliver(bound, step, self._forward(bound, step))
        done = bound.stream.advance()
        bound.end_stream()
        return [] if done is None else self._deliver(bound, *done)

    def _deliver(self, bound: _Bound, step: Step, computed: torch.Tensor) -> list[TokenEvent]:
        """Note what was computed, and sample from its logits, decoding sequences first."""
        scheduler = bound.scheduler
        logits: npt.NDArray[np.float32] = computed.float().cpu().numpy()
        for sequence in step.decodes:
            sequence.advance(1)
        for sequence, num_tokens in step.chunks:
            sequence.advance(num_tokens)
        now_s = self._clock.monotonic_s()
        ready = step.decodes + [sequence for sequence, _ in step.chunks if sequence.num_left == 0]
        rows = list(range(len(ready)))
        for row, leader in enumerate(list(ready)):
            if not leader.has_started:
                forks = scheduler.fork(leader, now_s)
                ready += forks
                rows += [row] * len(forks)
        if len(rows) > len(logits):
            logits = logits[rows]
        events = _sample(bound.sampler, ready, logits, now_s)
        for sequence, event in zip(ready, events, strict=True):
            if event.finish is not None:
                scheduler.retire(sequence)
        self._block_changes = bound.pool.take_changes()
        if not scheduler.has_work and not bound.pool.is_unused:
            self.check_integrity()
        return events

    def block_changes(self) -> tuple[list[bytes], list[bytes]]:
        """Names of blocks that the last `step` made findable, and of those that it gave up."""
        return self._block_changes

    def check_integrity(self) -> None:
        """Compare every block's references with the tables of all sequences. Raises: EngineError for a difference."""
        bound = self._require_bound()
        bound.pool.check_integrity([sequence.table.blocks for sequence in bound.scheduler])

    @property
    def num_preempted(self) -> int:
        """How often a sequence gave its blocks up for an older one, since the attach."""
        return self._require_bound().scheduler.num_preempted

    def _forward(self, bound: _Bound, step: Step) -> torch.Tensor:
        """Compute the step; logits (number of sequences that get an id, vocab), decoding ones first."""
        batch = build_batch(
            [sequence.as_decode_row() for sequence in step.decodes],
            [sequence.as_prompt(num_tokens) for sequence, num_tokens in step.chunks],
            self._torch_dtype,
        )
        return bound.model.forward(batch.to(self._device))

    def _require_bound(self) -> _Bound:
        if self._bound is None:
            raise EngineError("no weights are attached")
        return self._bound


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a model computes, and the page-locked arena that its weights come from, if there is one."""

    dtype: torch.dtype
    device: torch.device
    arena: HostArena | None


class _Bound:
    """What exists only while weights are attached: `stream` while they arrive, `model` after that."""

    model: LlamaModel

    def __init__(self, weights: Weights, limits: EngineLimits, place: _Place, clock: Clock) -> None:
        dtype, device = place.dtype, place.device
        self.config = config = LlamaConfig.parse(weights.layout.architecture)
        own = config.max_position_tokens
        self.max_model_len_tokens = min(limits.max_model_len_tokens or own, own)
        num_blocks = _num_blocks(config, limits.kv_cache_bytes, dtype, device)
        self.max_model_len_tokens = min(self.max_model_len_tokens, num_blocks * BLOCK_TOKENS)
        # Whole blocks: a window is as long as the blocks of its sequence.
        window_tokens = num_blocks_for(self.max_model_len_tokens) * BLOCK_TOKENS
        self._cache = cache = KvCache(config, limits.max_num_seqs, window_tokens, dtype, device)
        self.pool = BlockPool(num_blocks)
        self.store = BlockStore(config, num_blocks, cache, dtype, device)
        self.scheduler = Scheduler(self.pool, cache, limits.max_num_seqs)
        self._rope = RopeTable(config.rope, config.head_dim, self.max_model_len_tokens, dtype, device)
        self.sampler = Sampler(config.vocab_size)
        self.copied_bytes = 0
        self.stream: LayerStream | None = None
        self._arriving: DeviceWeights | None = None
        if weights.num_ready < len(weights.shards):
            blocks = LlamaBlocks(config, cache, self._rope)
            self.stream = LayerStream(config, weights, blocks, self.scheduler, dtype, clock)
        else:
            self._use(self._read(weights, place))

    def end_stream(self) -> None:
        """Go over to the whole model once nothing is left of the stream."""
        if self.stream is not None and self.stream.is_over and self.stream.weights is not None:
            self._use(self.stream.weights)
            self.stream = None

    def _use(self, weights: LlamaWeights) -> None:
        self.model = LlamaModel(self.config, weights, self._cache, self._rope)

    def finish_copies(self) -> None:
        """Block until no copy reads the region any more."""
        if self._arriving is not None:
            self._arriving.finish()

    def _read(self, weights: Weights, place: _Place) -> LlamaWeights:
        """Views of the region on the CPU, copies of it on a GPU."""
        if place.device.type == "cpu":
            tensors = RegionTensors(weights, place.dtype)
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


def _num_blocks(config: LlamaConfig, kv_cache_bytes: int, dtype: torch.dtype, device: torch.device) -> int:
    """Blocks of one replica. Raises: EngineError when not one fits."""
    if device.type == "cpu":
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        memory_bytes, _ = torch.cuda.mem_get_info(device)
    one_bytes = block_bytes(config, dtype)
    num_blocks = (kv_cache_bytes or default_bytes(memory_bytes)) // one_bytes
    if num_blocks < 1:
        raise EngineError(
            f"keys and values of {BLOCK_TOKENS} tokens take {one_bytes} bytes, engine.kv_cache_bytes allows "
            f"{kv_cache_bytes}; raise it",
            param="kv_cache_bytes",
        )
    return num_blocks


def _sample(
    sampler: Sampler, ready: list[Sequence], logits: npt.NDArray[np.float32], now_s: float
) -> list[TokenEvent]:
    """Draw the next id of every sequence; `logits` (len(ready), vocab) is overwritten."""
    asked = [
        RowLogprobs(row, sequence.request.logprobs) if sequence.request.logprobs >= 0 else None
        for sequence, row in zip(ready, logits, strict=True)
    ]
    token_ids = sampler.sample(logits, [sequence.as_draw() for sequence in ready]) if ready else []
    events = []
    for sequence, token_id, row in zip(ready, token_ids, asked, strict=True):
        logprobs: TokenLogprobs | None = None if row is None else row.of(token_id)
        events.append(sequence.append(token_id, now_s, logprobs))
    return events


def create(dtype: str, num_threads: int, device: str = "cpu", arena_path: str = "") -> LlamaEngine:
    """The engine's factory. Sets the process's compute threads; call it after the fork.

    `dtype`: bfloat16 or float32. `num_threads` at least 1. `device`: cpu or cuda.
    Raises: EngineError for another dtype, no thread, or no such device.
    """
    if num_threads < 1:
        raise EngineError(f"num_threads must be at least 1, not {num_threads}", param="num_threads")
    torch.set_num_threads(num_threads)
    if device != "cpu" and not torch.cuda.is_available():
        raise EngineError(
            f"engine.device is {device!r} and torch {torch.__version__} finds none; install a CUDA build and "
            "driver, or set engine.device to cpu",
            param="device",
        )
    return LlamaEngine(dtype, SystemClock(), torch.device(device), arena_path)
