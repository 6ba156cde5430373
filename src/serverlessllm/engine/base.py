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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from serverlessllm.wire.worker import Generate, ModelLayout, TokenEvent


@dataclass(frozen=True, slots=True)
class RegionFile:
    """The file below a region, for an engine whose computing process is another one: it maps the extents itself."""

    descriptor: int
    extents: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Weights:
    """Mapped bytes of one revision; the engine makes views of `region` and never owns or writes them."""

    region: memoryview
    layout: ModelLayout
    file: RegionFile | None = None


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds of one replica. `max_model_len_tokens` 0 takes the model's own context length, `kv_cache_bytes` 0 a
    share of the machine's memory."""

    max_num_seqs: int
    max_model_len_tokens: int
    kv_cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BindReport:
    """What attaching cost. `copied_bytes` counts weights that had to be converted to the compute dtype."""

    max_model_len_tokens: int
    copied_bytes: int


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


EngineFactory = Callable[[str, int], Engine]
"""(dtype, num_threads) → engine; called in the worker, after the fork."""
