# SPDX-License-Identifier: Apache-2.0
"""The embedded engine: bind, add, step, cancel. Implements `engine.base.Engine`; knows ids, never text.

One step computes one forward pass: all running sequences by one id, and pieces of the prompts that were admitted,
side by side, so that the weights are read once for both. `scheduler.py` decides which.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.engine.base import BindReport, EngineLimits, Weights
from serverlessllm.engine.llama.batch import build_batch
from serverlessllm.engine.llama.block_chain import BLOCK_TOKENS, num_blocks_for
from serverlessllm.engine.llama.block_pool import BlockPool
from serverlessllm.engine.llama.block_store import BlockStore, block_bytes, default_bytes
from serverlessllm.engine.llama.block_table import BlockTable
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.embedder import Embedder
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.lora import LoraAdapter, LoraRows
from serverlessllm.engine.llama.model import LlamaModel
from serverlessllm.engine.llama.priming import prime_kernels
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.engine.llama.request_check import check_request
from serverlessllm.engine.llama.rope import RopeTable
from serverlessllm.engine.llama.sampling.grammar import AnswerGrammar, GrammarCompiler
from serverlessllm.engine.llama.sampling.logprobs import RowLogprobs
from serverlessllm.engine.llama.sampling.sampler import Sampler
from serverlessllm.engine.llama.scheduler import Scheduler, Step
from serverlessllm.engine.llama.sequence import Sequence
from serverlessllm.engine.llama.weights import read_weights
from serverlessllm.errors import EngineError, InvalidRequestError
from serverlessllm.wire.worker import Embed, Embedded, Failed, Generate, Spellings, TokenEvent, TokenLogprobs

_DTYPES: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class LlamaEngine:
    """`engine.base.Engine` for the families of `traits.py`, on the CPU. Not thread-safe: one thread calls all."""

    name: str = "torch"

    def __init__(self, dtype: str, clock: Clock) -> None:
        if dtype not in _DTYPES:
            raise EngineError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}", param="dtype")
        self.dtype: str = dtype
        self._torch_dtype = _DTYPES[dtype]
        self._clock = clock
        self._bound: _Bound | None = None
        self._is_quiesced = False
        self._num_added = 0
        self._failures: list[Failed] = []

    def prime(self) -> None:
        """Warm allocator, thread pool and kernels (~0.2 s, once per process)."""
        prime_kernels(self._torch_dtype)

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
        self._bound = bound = _Bound(weights, limits, self._torch_dtype)
        return BindReport(bound.max_model_len_tokens, bound.copied_bytes)

    def detach_weights(self) -> None:
        """Drop every view and every request; afterwards nothing here exports the region's buffer."""
        self._bound = None
        self._is_quiesced = False

    def set_spellings(self, spellings: Spellings) -> None:
        """How ids are spelled, for requests with a grammar (~0.1 s per 50,000 ids). Raises: EngineError."""
        self._require_bound().grammars = GrammarCompiler(spellings)

    def take_failures(self) -> list[Failed]:
        """Requests whose grammar took too much since the last call; they are gone."""
        failures, self._failures = self._failures, []
        return failures

    def load_adapter(self, adapter: str, weights: Weights) -> None:
        """Bind a LoRA adapter, named by its revision. Raises: UnsupportedCheckpointError, CheckpointFormatError."""
        bound = self._require_bound()
        if adapter not in bound.adapters:
            bound.adapters[adapter] = LoraAdapter(bound.config, weights, self._torch_dtype)

    def embed(self, request: Embed) -> None:
        """Queue texts that become vectors. Raises: ContextLengthError, InvalidRequestError, EngineError."""
        self._require_bound().embedder.add(request)

    def take_embedded(self) -> list[Embedded]:
        """Requests of `embed` that were finished since the last call."""
        return [] if self._bound is None else self._bound.embedder.take()

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
        if request.adapter and request.adapter not in bound.adapters:
            raise EngineError(f"adapter {request.adapter} is not loaded; load it first")
        grammar = bound.begin_grammar(request)
        # Keys and values depend on the adapter: what one computed is never another's.
        salt = f"{request.cache_salt}\0{request.adapter}" if request.adapter else request.cache_salt
        table = BlockTable(bound.pool, bound.store, salt)
        bound.scheduler.add(Sequence(request, table, self._num_added, self._clock.monotonic_s(), grammar))
        self._num_added += 1

    def cancel(self, request_id: str, choice: int | None = None) -> None:
        """Drop one choice of a request, or all, in any phase; slots and blocks are free for the next step."""
        if self._bound is not None:
            self._bound.scheduler.cancel(request_id, choice)
            self._bound.embedder.cancel(request_id)

    @property
    def has_work(self) -> bool:
        """Whether `step` would compute something."""
        if self._is_quiesced or self._bound is None:
            return False
        return self._bound.scheduler.has_work or self._bound.embedder.has_work

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """One id for every running request whose prompt is computed. Raises: EngineError for a leaked block."""
        if not self.has_work:
            return []
        bound = self._require_bound()
        if bound.embedder.has_work:
            bound.embedder.step()
        return self._generate(bound) if bound.scheduler.has_work else []

    def _generate(self, bound: _Bound) -> list[TokenEvent]:
        scheduler = bound.scheduler
        step = scheduler.plan(self._clock.monotonic_s())
        logits = self._forward(bound, step)
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
        sampled = _sample(bound.sampler, ready, logits, now_s)
        for sequence, outcome in zip(ready, sampled, strict=True):
            if isinstance(outcome, Failed) or outcome.finish is not None:
                scheduler.retire(sequence)
        events = [outcome for outcome in sampled if isinstance(outcome, TokenEvent)]
        self._failures += [outcome for outcome in sampled if isinstance(outcome, Failed)]
        if not scheduler.has_work and not bound.pool.is_unused:
            self.check_integrity()
        return events

    def check_integrity(self) -> None:
        """Compare every block's references with the tables of all sequences. Raises: EngineError for a difference."""
        bound = self._require_bound()
        bound.pool.check_integrity([sequence.table.blocks for sequence in bound.scheduler])

    @property
    def num_preempted(self) -> int:
        """How often a sequence gave its blocks up for an older one, since the attach."""
        return self._require_bound().scheduler.num_preempted

    def _forward(self, bound: _Bound, step: Step) -> npt.NDArray[np.float32]:
        """Compute the step; logits (number of sequences that get an id, vocab), decoding ones first."""
        decodes = [sequence.as_decode_row() for sequence in step.decodes]
        prompts = [sequence.as_prompt(num_tokens) for sequence, num_tokens in step.chunks]
        batch = build_batch(decodes, prompts, self._torch_dtype)
        lora = None
        if bound.adapters:
            names = [sequence.request.adapter for sequence in step.decodes]
            prompt_names = [sequence.request.adapter for sequence, _ in step.chunks]
            lora = LoraRows.of(
                list(zip(decodes, names, strict=True)),
                list(zip(prompts, prompt_names, strict=True)),
                bound.adapters,
            )
        logits: npt.NDArray[np.float32] = bound.model.forward(batch, lora).float().numpy()
        for sequence in step.decodes:
            sequence.advance(1)
        for sequence, num_tokens in step.chunks:
            sequence.advance(num_tokens)
        return logits

    def _require_bound(self) -> _Bound:
        if self._bound is None:
            raise EngineError("no weights are attached")
        return self._bound


class _Bound:
    """What exists only while weights are attached."""

    def __init__(self, weights: Weights, limits: EngineLimits, dtype: torch.dtype) -> None:
        self.config = config = LlamaConfig.parse(weights.layout.architecture)
        own = config.max_position_tokens
        self.max_model_len_tokens = min(limits.max_model_len_tokens or own, own)
        num_blocks = _num_blocks(config, limits.kv_cache_bytes, dtype)
        self.max_model_len_tokens = min(self.max_model_len_tokens, num_blocks * BLOCK_TOKENS)
        tensors = RegionTensors(weights, dtype)
        llama_weights = read_weights(config, tensors)
        self.copied_bytes = tensors.copied_bytes
        # Whole blocks: a window is as long as the blocks of its sequence.
        window_tokens = num_blocks_for(self.max_model_len_tokens) * BLOCK_TOKENS
        cache = KvCache(config, limits.max_num_seqs + 1, window_tokens, dtype)  # one is for embeddings
        self.pool = BlockPool(num_blocks)
        self.store = BlockStore(config, num_blocks, cache, dtype)
        self.scheduler = Scheduler(self.pool, cache, limits.max_num_seqs)
        rope = RopeTable(config.rope, config.head_dim, self.max_model_len_tokens, dtype)
        self.model = LlamaModel(config, llama_weights, cache, rope)
        self.sampler = Sampler(config.vocab_size)
        self.grammars: GrammarCompiler | None = None
        self.adapters: dict[str, LoraAdapter] = {}
        self.embedder = Embedder(
            self.model, cache, limits.max_num_seqs, config.vocab_size, self.max_model_len_tokens, dtype
        )

    def begin_grammar(self, request: Generate) -> AnswerGrammar | None:
        """Raises: EngineError when no spellings came; as `GrammarCompiler.begin`."""
        if not request.grammar:
            return None
        if self.grammars is None:
            raise EngineError("a grammar came before the spellings of ids; send those first")
        return self.grammars.begin(request.grammar, request.generated_ids)


def _num_blocks(config: LlamaConfig, kv_cache_bytes: int, dtype: torch.dtype) -> int:
    """Blocks of one replica. Raises: EngineError when not one fits."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
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
) -> list[TokenEvent | Failed]:
    """Draw the next id of every sequence; `logits` (len(ready), vocab) is overwritten.

    Log-probabilities are the model's own: they are taken before a grammar hides ids.
    """
    asked = [
        RowLogprobs(row, sequence.request.logprobs) if sequence.request.logprobs >= 0 else None
        for sequence, row in zip(ready, logits, strict=True)
    ]
    failed = [sequence.restrict(row) for sequence, row in zip(ready, logits, strict=True)]
    token_ids = sampler.sample(logits, [sequence.as_draw() for sequence in ready]) if ready else []
    outcomes: list[TokenEvent | Failed] = []
    for sequence, failure, token_id, row in zip(ready, failed, token_ids, asked, strict=True):
        logprobs: TokenLogprobs | None = None if row is None else row.of(token_id)
        outcomes.append(failure or sequence.append(token_id, now_s, logprobs))
    return outcomes


def create(dtype: str, num_threads: int) -> LlamaEngine:
    """The engine's factory. Sets the process's compute threads; call it after the fork.

    `dtype`: bfloat16 or float32. `num_threads` at least 1.
    Raises: EngineError for another dtype or no thread.
    """
    if num_threads < 1:
        raise EngineError(f"num_threads must be at least 1, not {num_threads}", param="num_threads")
    torch.set_num_threads(num_threads)
    return LlamaEngine(dtype, SystemClock())
