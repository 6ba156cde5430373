# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts: forward passes without sampling, pooled over the last layer's normed states.

One pass a step, beside the step that generates: whole inputs side by side, as many as fit into it, or one piece of a
long input. Keys and values go to a slot of the window cache that no sequence uses. Knows no request's text.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

import torch

from serverlessllm.engine.llama.batch import Prompt, build_batch
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.kv_memory import CPU
from serverlessllm.engine.llama.model import LlamaModel
from serverlessllm.errors import ContextLengthError, InvalidRequestError
from serverlessllm.types import Pooling
from serverlessllm.wire.worker import Embed, Embedded

STEP_TOKENS: Final = 256
"""Rows of one pass: running streams wait for all of it."""


@dataclass(slots=True)
class _Input:
    """One text on its way: `total` is the sum of the states so far, or the last one."""

    ids: list[int]
    start: int = 0
    total: torch.Tensor | None = None


@dataclass(slots=True)
class _Job:
    request_id: str
    pooling: Pooling
    inputs: deque[_Input]
    vectors: list[bytes] = field(default_factory=list)


class Embedder:
    """`add`, then `step` while `has_work`, then `take`. `slot` is its own in the model's cache. Inputs may be
    added before the model is there."""

    def __init__(
        self,
        cache: KvCache,
        slot: int,
        vocab_size: int,
        max_model_len_tokens: int,
        dtype: torch.dtype,
        device: torch.device = CPU,
    ) -> None:
        self._cache = cache
        self._slot = slot
        self._vocab_size = vocab_size
        self._max_model_len_tokens = max_model_len_tokens
        self._dtype = dtype
        self._device = device
        self._jobs: deque[_Job] = deque()
        self._done: list[Embedded] = []

    @property
    def has_work(self) -> bool:
        """Whether an input is left."""
        return bool(self._jobs)

    def add(self, request: Embed) -> None:
        """Queue it. Raises: InvalidRequestError, ContextLengthError naming the input."""
        for index, ids in enumerate(request.inputs):
            if not ids or not 0 <= min(ids) <= max(ids) < self._vocab_size:
                raise InvalidRequestError(
                    f"input[{index}]: ids must lie between 0 and {self._vocab_size - 1}, at least one",
                    param=f"input[{index}]",
                )
            if len(ids) > self._max_model_len_tokens:
                raise ContextLengthError(
                    f"input[{index}] has {len(ids)} tokens, the model's context is "
                    f"{self._max_model_len_tokens}; shorten it",
                    param=f"input[{index}]",
                )
        self._jobs.append(_Job(request.request_id, request.pooling, deque(map(_Input, request.inputs))))

    def cancel(self, request_id: str) -> None:
        """Forget a request; an unknown one is no error."""
        self._jobs = deque(job for job in self._jobs if job.request_id != request_id)

    def take(self) -> list[Embedded]:
        """Requests that are finished, each once."""
        done, self._done = self._done, []
        return done

    def step(self, model: LlamaModel) -> None:
        """Compute one pass of the oldest request with the model whose cache this is."""
        job = self._jobs[0]
        pieces = _pieces(job)
        prompts = [Prompt(self._slot, ids, each.start) for each, ids in pieces]
        batch = replace(build_batch([], prompts, self._dtype), last_rows=None)
        states = model.states(batch.to(self._device)).float().cpu()
        for run, (each, ids) in zip(batch.prompt_runs, pieces, strict=True):
            rows = states[run.start : run.end]
            each.total = rows[-1] if job.pooling == "last" else _sum(each.total, rows)
            each.start += len(ids)
        while job.inputs and job.inputs[0].start == len(job.inputs[0].ids):
            done = job.inputs.popleft()
            job.vectors.append(_pooled(done, job.pooling))
            self._cache.release(self._slot, len(done.ids))
        if not job.inputs:
            self._jobs.popleft()
            self._done.append(Embedded(job.request_id, job.vectors))


def _pieces(job: _Job) -> list[tuple[_Input, list[int]]]:
    """What one pass computes: whole inputs while they fit, else the next piece of the first one."""
    first = job.inputs[0]
    if first.start or len(first.ids) > STEP_TOKENS:
        return [(first, first.ids[first.start : first.start + STEP_TOKENS])]
    pieces, left = [], STEP_TOKENS
    for each in job.inputs:
        if len(each.ids) > left:
            break
        pieces.append((each, each.ids))
        left -= len(each.ids)
    return pieces


def _sum(total: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    added = rows.sum(dim=0)
    return added if total is None else total + added


def _pooled(each: _Input, pooling: Pooling) -> bytes:
    if each.total is None:
        raise InvalidRequestError("input: nothing was computed of it", param="input")
    vector = each.total / len(each.ids) if pooling == "mean" else each.total
    return vector.numpy().astype("<f4").tobytes()
