# SPDX-License-Identifier: Apache-2.0
"""What every engine is to the worker that drives it. Knows no text, no sockets, no HTTP.

One thread calls everything. A worker's life:

    state     → add            step                          attach_weights   detach_weights
    new       → error          []                            → attached       error
    attached  → queued         one id per running request    error            → new, requests dropped
    quiesced  → queued         [] (nothing is computed)      error            → new, requests dropped

`quiesce` moves attached → quiesced and `resume` moves back: between them no kernel runs and no thread holds
the weights, so that a process snapshot or a change of weights is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from serverlessllm.wire.standby import BlocksTaken, Extend, PutBlocks, Standing, TakeBlocks
from serverlessllm.wire.worker import Embed, Embedded, Failed, Generate, ModelLayout, Spellings, TokenEvent


@dataclass(frozen=True, slots=True)
class RegionFile:
    """The file below a region, for an engine that maps the extents itself, or has mapped the whole file."""

    descriptor: int
    extents: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Weights:
    """Mapped bytes of one revision; the engine makes views of `region` and never owns or writes them.

    `shards` are (offset, nbytes) in order of arrival, the first `num_ready` of them whole; what lies in the others
    must not be read before `StreamingEngine.shards_arrived` says so. No shards: all is there.
    """

    region: memoryview
    layout: ModelLayout
    shards: Sequence[tuple[int, int]] = ()
    num_ready: int = 0
    file: RegionFile | None = None


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds of one replica. `max_model_len_tokens` 0 takes the model's own context length, `kv_cache_bytes` 0 a
    share of the machine's memory. `packs_weights`: an engine may keep a copy of them in the order that its kernels
    read, made after the bind.
    """

    max_num_seqs: int
    max_model_len_tokens: int
    kv_cache_bytes: int = 0
    packs_weights: bool = False


@dataclass(frozen=True, slots=True)
class BindReport:
    """What attaching cost. `copied_bytes` counts weights that had to be converted to the compute dtype.

    `block_tokens`: ids per block, of an engine that is a `BlockReporter`.
    """

    max_model_len_tokens: int
    copied_bytes: int
    block_tokens: int = 0


class Engine(Protocol):
    """The door through which a worker drives an engine. Errors are `SllmError`s; anything else is a crash."""

    name: str
    dtype: str

    def prime(self) -> None:
        """Warm allocator, thread pool and kernels, before a model is known. Idempotent."""

    def attach_weights(self, weights: Weights, limits: EngineLimits, options: dict[str, float]) -> BindReport:
        """Build the model as views of `weights`. Raises EngineError, UnsupportedCheckpointError."""

    def detach_weights(self) -> None:
        """Drop every view and every request, so that the region may be unmapped."""

    def quiesce(self) -> None:
        """Stop computing until `resume`."""

    def resume(self) -> None:
        """Compute again."""

    def add(self, request: Generate) -> None:
        """Queue a request. Raises ContextLengthError or InvalidRequestError; then nothing was queued."""

    def cancel(self, request_id: str, choice: int | None = None) -> None:
        """Drop one choice of a request, or all of them, in any phase; an unknown one is no error."""

    @property
    def has_work(self) -> bool:
        """Whether `step` would compute something."""

    def step(self) -> list[TokenEvent]:
        """Advance the running requests by at most one id each, admitting queued ones first. Never blocks on input."""


@runtime_checkable
class StreamingEngine(Protocol):
    """An engine that takes weights which are still arriving; `step` then does what can be done with those here.

    `has_work` is false while that is nothing. Everything is answered as if all had been there from the start.
    """

    @property
    def can_stream(self) -> bool:
        """False where it takes whole weights only."""

    def shards_arrived(self, num_shards: int) -> None:
        """The first `num_shards` are whole and may be read."""

    def take_wanted(self) -> list[tuple[int, int]]:
        """(offset, nbytes) in the region that would help before their shard's turn; each is named once."""

    def take_early(self, offset: int, data: bytes) -> None:
        """What was wanted at `offset`, unverified: it must equal the region's bytes, or be computed again."""


@runtime_checkable
class BlockReporter(Protocol):
    """An engine that keeps keys and values for later requests, and says which."""

    def block_changes(self) -> tuple[list[bytes], list[bytes]]:
        """Names of blocks that the last `step` made findable, and of those that it gave up."""


@runtime_checkable
class StandbyEngine(Protocol):
    """An engine that prepares requests which still run elsewhere (`Generate.is_standby`).

    Theirs is what running requests leave of a step. `cancel` ends them like any other.
    """

    def extend(self, message: Extend) -> None:
        """Take ids of a standby choice; with `is_last` it is sampled from now on.

        Raises: InvalidRequestError for a choice that does not stand by, or ids that it cannot have.
        """

    def take_standing(self) -> list[Standing]:
        """Choices that have caught up since the last call."""


@runtime_checkable
class BlockCopier(Protocol):
    """An engine whose blocks of keys and values another engine of its revision and dtype can use."""

    def take_blocks(self, message: TakeBlocks) -> BlocksTaken:
        """Full blocks of a running choice; none of an unknown one."""

    def put_blocks(self, message: PutBlocks) -> int:
        """Keep blocks for later requests, as far as there is room; how many. Raises: InvalidRequestError."""


@runtime_checkable
class GrammarEngine(Protocol):
    """An engine that can hold answers to a grammar (`Generate.grammar`); the worker refuses them for all others."""

    def set_spellings(self, spellings: Spellings) -> None:
        """How the attached model's ids are spelled; before the first request with a grammar."""


@runtime_checkable
class FailureReporter(Protocol):
    """An engine whose requests may fail after they were taken, alone, while others go on."""

    def take_failures(self) -> list[Failed]:
        """Requests that failed since the last call; the engine holds nothing of them any more."""


@runtime_checkable
class EmbeddingEngine(Protocol):
    """An engine that can turn texts into vectors; the worker refuses `Embed` for all others."""

    def embed(self, request: Embed) -> None:
        """Queue a request. Raises: ContextLengthError, InvalidRequestError; then nothing was queued."""

    def take_embedded(self) -> list[Embedded]:
        """Requests that `step` has finished since the last call."""


@runtime_checkable
class AdapterEngine(Protocol):
    """An engine that computes requests with LoRA adapters (`Generate.adapter`)."""

    def load_adapter(self, adapter: str, weights: Weights) -> None:
        """Bind one; a known one is no error. Raises: UnsupportedCheckpointError, CheckpointFormatError."""


class EngineFactory(Protocol):
    """Makes an engine in the worker, after the fork."""

    def __call__(self, dtype: str, num_threads: int, device: str = "cpu", arena_path: str = "") -> Engine:
        """`arena_path` is what an engine on a GPU may page-lock; empty: nothing."""


@dataclass(frozen=True, slots=True)
class RankSeat:
    """One of `world_size` workers that compute a model together; they meet in `directory`, the slot's own."""

    rank: int
    world_size: int
    directory: Path


class RankEngine(
    Engine, BlockReporter, GrammarEngine, FailureReporter, EmbeddingEngine, AdapterEngine, Protocol
):
    """What computes one rank's part. Every rank gets the same calls in the same order; rank 0 samples for all."""


class RankFactory(Protocol):
    """Makes one rank's engine in its worker, after the fork; returns once all ranks have met."""

    def __call__(self, dtype: str, num_threads: int, seat: RankSeat) -> RankEngine: ...
