# SPDX-License-Identifier: Apache-2.0
"""The embedded engine: bind, add, step, cancel. Implements `engine.base.Engine`; knows ids, never text.

One step computes one forward pass: all running sequences by one id, and pieces of the prompts that were admitted,
side by side, so that the weights are read once for both. `scheduler.py` decides which. While weights are still
arriving, `layer_stream.py` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.engine.base import BindReport, EngineLimits, RankSeat, Weights
from serverlessllm.engine.host_arena import HostArena
from serverlessllm.engine.llama.agreement import agreed
from serverlessllm.engine.llama.batch import build_batch
from serverlessllm.engine.llama.block_chain import BLOCK_TOKENS
from serverlessllm.engine.llama.block_copy import put_blocks, take_blocks
from serverlessllm.engine.llama.block_table import BlockTable
from serverlessllm.engine.llama.bound import Bound, Place
from serverlessllm.engine.llama.kv_memory import CPU
from serverlessllm.engine.llama.lora import LoraAdapter, LoraRows
from serverlessllm.engine.llama.priming import prime_kernels
from serverlessllm.engine.llama.rank_group import RankGroup
from serverlessllm.engine.llama.request_check import check_extension, check_request
from serverlessllm.engine.llama.sampling.grammar import GrammarCompiler
from serverlessllm.engine.llama.sampling.logprobs import RowLogprobs
from serverlessllm.engine.llama.sampling.sampler import Sampler
from serverlessllm.engine.llama.scheduler import Step
from serverlessllm.engine.llama.sequence import Sequence
from serverlessllm.errors import EngineError, InvalidRequestError, MigrationRefusedError
from serverlessllm.types import adapter_salt
from serverlessllm.wire.standby import BlocksTaken, Extend, PutBlocks, Standing, TakeBlocks
from serverlessllm.wire.worker import Embed, Embedded, Failed, Generate, Spellings, TokenEvent, TokenLogprobs

_DTYPES: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class LlamaEngine:
    """`Engine` for the families of `traits.py` and, on the CPU, `StreamingEngine`. One thread calls everything."""

    name: str = "torch"

    @property
    def can_stream(self) -> bool:
        """See `StreamingEngine`: a GPU copies a whole region block by block instead, and ranks bind a whole one."""
        return self._device.type == "cpu" and self._group is None

    def __init__(
        self,
        dtype: str,
        clock: Clock,
        device: torch.device = CPU,
        arena_path: str = "",
        group: RankGroup | None = None,
    ) -> None:
        """`arena_path` is page-locked by `prime` where `device` is a GPU. `group`: this is one rank of several, and
        the others get the same calls in the same order."""
        if dtype not in _DTYPES:
            raise EngineError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}", param="dtype")
        self._device = device
        self._group = group
        self._arena_path = arena_path
        self._arena: HostArena | None = None
        self.dtype: str = dtype
        self._torch_dtype = _DTYPES[dtype]
        self._clock = clock
        self._bound: Bound | None = None
        self._is_quiesced = False
        self._num_added = 0
        self._block_changes: tuple[list[bytes], list[bytes]] = [], []
        self._failures: list[Failed] = []

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
        place = Place(self._torch_dtype, self._device, self._arena, self._group)
        self._bound = bound = Bound(weights, limits, place, self._clock)
        return BindReport(bound.max_model_len_tokens, bound.copied_bytes, BLOCK_TOKENS)

    def detach_weights(self) -> None:
        """Drop every view and every request; afterwards nothing here exports the region's buffer."""
        if self._bound is not None:
            self._bound.finish_copies()
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
            bound.adapters[adapter] = LoraAdapter(bound.config, weights, self._torch_dtype, self._device)

    def embed(self, request: Embed) -> None:
        """Queue texts that become vectors. Raises: ContextLengthError, InvalidRequestError, EngineError."""
        self._require_bound().embedder.add(request)

    def take_embedded(self) -> list[Embedded]:
        """Requests of `embed` that were finished since the last call."""
        return [] if self._bound is None else self._bound.embedder.take()

    def quiesce(self) -> None:
        """Stop computing until `resume`; requests may still be added and cancelled. Packed copies are dropped."""
        self._is_quiesced = True
        if self._bound is not None:
            self._bound.drop_packed()

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
        if request.is_standby and bound.stream is not None:
            raise MigrationRefusedError(
                "the model still arrives here; requests move to whole ones", source="engine"
            )
        if request.adapter and request.adapter not in bound.adapters:
            raise EngineError(f"adapter {request.adapter} is not loaded; load it first")
        grammar = bound.begin_grammar(request)
        salt = adapter_salt(request.cache_salt, request.adapter)
        table = BlockTable(bound.pool, bound.store, salt)
        bound.scheduler.add(Sequence(request, table, self._num_added, self._clock.monotonic_s(), grammar))
        self._num_added += 1
        if bound.stream is not None:
            bound.stream.admit()

    def extend(self, message: Extend) -> None:
        """Take ids of a choice that stands by; see `StandbyEngine`. Raises: InvalidRequestError."""
        bound = self._require_bound()
        sequence = bound.scheduler.find(message.request_id, message.choice)
        check_extension(message, sequence, bound.config.vocab_size)
        if sequence is not None:
            sequence.extend(message.token_ids)
            if message.is_last:
                sequence.go(self._clock.monotonic_s())
            bound.scheduler.wake()

    def take_standing(self) -> list[Standing]:
        """Choices that stand by and have caught up since the last call."""
        if self._bound is None:
            return []
        return [told for sequence in self._bound.scheduler if (told := sequence.take_standing()) is not None]

    def take_blocks(self, message: TakeBlocks) -> BlocksTaken:
        """Full blocks of a running choice; see `BlockCopier`."""
        bound = self._require_bound()
        return take_blocks(message, bound.scheduler.find(message.request_id, message.choice), bound.store)

    @torch.inference_mode()
    def put_blocks(self, message: PutBlocks) -> int:
        """Keep blocks of another engine; see `BlockCopier`. Raises: InvalidRequestError."""
        bound = self._require_bound()
        return put_blocks(message, bound.pool, bound.store)

    def cancel(self, request_id: str, choice: int | None = None) -> None:
        """Drop one choice of a request, or all, in any phase; slots and blocks are free for the next step."""
        if self._bound is not None:
            self._bound.scheduler.cancel(request_id, choice)
            self._bound.embedder.cancel(request_id)
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
        bound = self._bound
        if bound.stream is not None:
            return bound.stream.has_work  # texts that become vectors wait for the whole model
        return bound.scheduler.has_work or bound.embedder.has_work

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
            if bound.embedder.has_work:
                bound.embedder.step(bound.model)
            return self._generate(bound) if bound.scheduler.has_work else []
        done = bound.stream.advance()
        bound.end_stream()
        return [] if done is None else self._deliver(bound, *done)

    def _generate(self, bound: Bound) -> list[TokenEvent]:
        step = bound.scheduler.plan(self._clock.monotonic_s())
        if not step.decodes and not step.chunks:
            return []
        events = self._deliver(bound, step, self._forward(bound, step))
        if step.decodes:
            bound.note_step()
        return events

    def _deliver(self, bound: Bound, step: Step, computed: torch.Tensor) -> list[TokenEvent]:
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
        if len(rows) > len(logits) > 0:
            logits = logits[rows]
        sampled = self._sampled(bound, ready, logits, now_s)
        for sequence, outcome in zip(ready, sampled, strict=True):
            if isinstance(outcome, Failed) or outcome.finish is not None:
                scheduler.retire(sequence)
        events = [outcome for outcome in sampled if isinstance(outcome, TokenEvent)]
        self._failures += [outcome for outcome in sampled if isinstance(outcome, Failed)]
        self._block_changes = bound.pool.take_changes()
        if not scheduler.has_work and not bound.pool.is_unused:
            self.check_integrity()
        return events

    def _sampled(
        self, bound: Bound, ready: list[Sequence], logits: npt.NDArray[np.float32], now_s: float
    ) -> list[TokenEvent | Failed]:
        """The next id of every sequence; of several ranks only rank 0 has logits and grammars, and draws for all."""
        group = self._group
        if group is None:
            return _sample(bound.sampler, ready, logits, now_s)
        outcomes = _sample(bound.sampler, ready, logits, now_s) if group.rank == 0 else None
        return agreed(group, outcomes, ready, now_s)

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

    def _forward(self, bound: Bound, step: Step) -> torch.Tensor:
        """Compute the step; logits (number of sequences that get an id, vocab), decoding ones first."""
        decodes = [sequence.as_decode_row() for sequence in step.decodes]
        prompts = [sequence.as_prompt(num_tokens) for sequence, num_tokens in step.chunks]
        batch = build_batch(decodes, prompts, self._torch_dtype).to(self._device)
        if not bound.adapters:
            return bound.model.forward(batch)
        names = [sequence.request.adapter for sequence in step.decodes]
        prompt_names = [sequence.request.adapter for sequence, _ in step.chunks]
        lora = LoraRows.of(
            list(zip(decodes, names, strict=True)),
            list(zip(prompts, prompt_names, strict=True)),
            bound.adapters,
        )
        return bound.model.forward(batch, lora)

    def _require_bound(self) -> Bound:
        if self._bound is None:
            raise EngineError("no weights are attached")
        return self._bound


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


def create_rank(dtype: str, num_threads: int, seat: RankSeat) -> LlamaEngine:
    """One rank's engine on the CPU, connected to the others. Call it after the fork, in all ranks at once.

    Raises: as `create`; RuntimeError when the other ranks do not come.
    """
    torch.set_num_threads(num_threads)
    group = RankGroup.meet(seat.rank, seat.world_size, seat.directory)
    return LlamaEngine(dtype, SystemClock(), group=group)
