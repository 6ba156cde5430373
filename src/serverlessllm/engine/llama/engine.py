# SPDX-License-Identifier: Apache-2.0
"""The embedded engine: queue, admit, step, cancel. Implements `engine.base.Engine`; knows ids, never text.

One step computes one forward pass: all running sequences by one id, and the prompts that are admitted, side by
side, so that the weights are read once for both.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import torch

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.engine.base import BindReport, EngineLimits, Weights
from serverlessllm.engine.llama.batch import build_batch
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.model import LlamaModel
from serverlessllm.engine.llama.priming import prime_kernels
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.engine.llama.request_check import check_request
from serverlessllm.engine.llama.rope import RopeTable
from serverlessllm.engine.llama.sampling.sampler import Sampler
from serverlessllm.engine.llama.sequence import Sequence
from serverlessllm.engine.llama.weights import read_weights
from serverlessllm.errors import EngineError, InvalidRequestError
from serverlessllm.wire.worker import Generate, TokenEvent

MAX_PROMPT_TOKENS_PER_STEP: Final = 512
"""Queued prompts are admitted together up to this sum (a longer one alone), so that running streams go on."""

_DTYPES: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class LlamaEngine:
    """`engine.base.Engine` for Llama, Qwen2 and Qwen3 on the CPU. Not thread-safe: one thread calls everything."""

    name: str = "torch"

    def __init__(self, dtype: str, clock: Clock) -> None:
        if dtype not in _DTYPES:
            raise EngineError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}", param="dtype")
        self.dtype: str = dtype
        self._torch_dtype = _DTYPES[dtype]
        self._clock = clock
        self._bound: _Bound | None = None
        self._is_quiesced = False
        self._queued: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._free_slots: list[int] = []

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
        self._free_slots = list(range(limits.max_num_seqs))
        return BindReport(bound.max_model_len_tokens, bound.copied_bytes)

    def detach_weights(self) -> None:
        """Drop every view and every request; afterwards nothing here exports the region's buffer."""
        self._bound = None
        self._is_quiesced = False
        self._queued.clear()
        self._running.clear()

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
        sequence = Sequence(request, self._clock.monotonic_s())
        if any(known.key == sequence.key for known in (*self._queued, *self._running)):
            raise InvalidRequestError(
                f"request {request.request_id!r} is running already", param="request_id"
            )
        self._queued.append(sequence)

    def cancel(self, request_id: str) -> None:
        """Drop every choice of a request in any phase; its slots are free for the next step."""
        self._queued = deque(seq for seq in self._queued if seq.request.request_id != request_id)
        for sequence in [seq for seq in self._running if seq.request.request_id == request_id]:
            self._retire(sequence)

    @property
    def has_work(self) -> bool:
        """Whether `step` would compute something."""
        return not self._is_quiesced and bool(self._queued or self._running)

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """One id for every running request, those admitted by this step included. Raises: EngineError unattached."""
        if not self.has_work:
            return []
        bound = self._require_bound()
        decoding = list(self._running)
        admitted = self._admit()
        batch = build_batch(
            [sequence.as_decode_row() for sequence in decoding],
            [sequence.as_prompt() for sequence in admitted],
            self._torch_dtype,
        )
        logits = bound.model.forward(batch).float().numpy()
        sequences = decoding + admitted
        token_ids = bound.sampler.sample(logits, [sequence.as_draw() for sequence in sequences])
        now_s = self._clock.monotonic_s()
        self._running = sorted(sequences, key=lambda sequence: sequence.slot)
        events = [seq.append(token_id, now_s) for seq, token_id in zip(sequences, token_ids, strict=True)]
        for sequence, event in zip(sequences, events, strict=True):
            if event.finish is not None:
                self._retire(sequence)
        return events

    def _admit(self) -> list[Sequence]:
        """Move queued sequences into the lowest free slots, oldest first, within the step's prompt budget."""
        admitted: list[Sequence] = []
        num_tokens = 0
        now_s = self._clock.monotonic_s()
        while self._queued and self._free_slots:
            num_tokens += self._queued[0].num_tokens
            if admitted and num_tokens > MAX_PROMPT_TOKENS_PER_STEP:
                break
            sequence = self._queued.popleft()
            slot = min(self._free_slots)
            self._free_slots.remove(slot)
            sequence.admit(slot, now_s)
            admitted.append(sequence)
        return admitted

    def _retire(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._free_slots.append(sequence.slot)
        self._require_bound().cache.release(sequence.slot, sequence.num_tokens)

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
        tensors = RegionTensors(weights, dtype)
        llama_weights = read_weights(config, tensors)
        self.copied_bytes = tensors.copied_bytes
        self.cache = KvCache(config, limits.max_num_seqs, self.max_model_len_tokens, dtype)
        rope = RopeTable(config.rope, config.head_dim, self.max_model_len_tokens, dtype)
        self.model = LlamaModel(config, llama_weights, self.cache, rope)
        self.sampler = Sampler(config.vocab_size)


def create(dtype: str, num_threads: int) -> LlamaEngine:
    """The engine's factory. Sets the process's compute threads; call it after the fork.

    `dtype`: bfloat16 or float32. `num_threads` at least 1.
    Raises: EngineError for another dtype or no thread.
    """
    if num_threads < 1:
        raise EngineError(f"num_threads must be at least 1, not {num_threads}", param="num_threads")
    torch.set_num_threads(num_threads)
    return LlamaEngine(dtype, SystemClock())
