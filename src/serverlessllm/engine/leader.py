# SPDX-License-Identifier: Apache-2.0
"""Rank 0 of a group of workers, as its worker sees it: one engine, whose every call the other ranks follow.

    call            here               other ranks
    attach_weights  binds its part     each binds its own, and holds the region by a descriptor of its own
    add, embed      queues             queue the same, without what only sampling needs
    cancel          forgets            forget
    step            computes, samples  compute beside it; their sums meet in each block
    load_adapter    binds its part     each binds its own

The same calls in the same order make the same schedule everywhere. What is refused here is told to nobody. A rank
that dies takes the others with it: the zygote sees to that. Knows no torch and no collectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serverlessllm.engine.base import BindReport, EngineLimits, RankEngine, Weights
from serverlessllm.engine.rank_link import RankLink
from serverlessllm.errors import EngineError, UnsupportedFieldError
from serverlessllm.wire.worker import (
    Advance,
    Attach,
    Cancel,
    Embed,
    Embedded,
    Failed,
    Generate,
    Spellings,
    TokenEvent,
    ToWorker,
)


class LeaderEngine:
    """`Engine` and what `RankEngine` is beside it, over all ranks. It takes whole weights only."""

    def __init__(self, engine: RankEngine, links: Sequence[RankLink]) -> None:
        """`engine` computes rank 0's part; `links` lead to the other ranks."""
        self._engine = engine
        self._links = links
        self.name = engine.name
        self.dtype = engine.dtype

    def prime(self) -> None:
        """Rank 0's; the others prime themselves."""
        self._engine.prime()

    def attach_weights(self, weights: Weights, limits: EngineLimits, options: dict[str, float]) -> BindReport:
        """All ranks at once. Raises as the engine does, for the first rank that cannot."""
        file = weights.file
        if file is None:
            raise EngineError("a group of ranks needs weights in the arena, and got none")
        attach = Attach(
            revision="",
            layout=weights.layout,
            extents=list(file.extents),
            max_num_seqs=limits.max_num_seqs,
            max_model_len_tokens=limits.max_model_len_tokens,
            options=options,
            kv_cache_bytes=limits.kv_cache_bytes,
            packs_weights=limits.packs_weights,
        )
        for link in self._links:
            link.attach(attach, file.descriptor)
        report = self._engine.attach_weights(weights, limits, options)
        copied = [link.attached().copied_bytes for link in self._links]
        return BindReport(report.max_model_len_tokens, report.copied_bytes + sum(copied), report.block_tokens)

    def detach_weights(self) -> None:
        """Rank 0's; the others end with it."""
        self._engine.detach_weights()

    def quiesce(self) -> None:
        """No rank computes: they compute only beside a step of rank 0."""
        self._engine.quiesce()

    def resume(self) -> None:
        """Compute again."""
        self._engine.resume()

    def add(self, request: Generate) -> None:
        """Queue it on every rank. Raises as the engine does; then nothing was queued anywhere."""
        self._engine.add(request)
        self._tell(msgspec.structs.replace(request, grammar="", logprobs=-1))

    def cancel(self, request_id: str, choice: int | None = None) -> None:
        """On every rank."""
        self._engine.cancel(request_id, choice)
        self._tell(Cancel(request_id, choice))

    @property
    def has_work(self) -> bool:
        """Whether `step` would compute something, on all ranks alike."""
        return self._engine.has_work

    def step(self) -> list[TokenEvent]:
        """One step of every rank."""
        if not self._engine.has_work:
            return []
        self._tell(Advance())
        return self._engine.step()

    def block_changes(self) -> tuple[list[bytes], list[bytes]]:
        """Rank 0's; the others' are the same."""
        return self._engine.block_changes()

    def set_spellings(self, spellings: Spellings) -> None:
        """Rank 0 samples, so it alone follows grammars."""
        self._engine.set_spellings(spellings)

    def take_failures(self) -> list[Failed]:
        """Rank 0's; the others dropped the same requests."""
        return self._engine.take_failures()

    def embed(self, request: Embed) -> None:
        """Queue it on every rank. Raises as the engine does."""
        self._engine.embed(request)
        self._tell(request)

    def take_embedded(self) -> list[Embedded]:
        """Rank 0's, which are whole."""
        return self._engine.take_embedded()

    def load_adapter(self, adapter: str, weights: Weights) -> None:
        """Raises: UnsupportedFieldError: adapters are not divided among ranks."""
        raise UnsupportedFieldError(
            "model: a model with tensor parallelism runs no adapters; register it with --tensor-parallel 1",
            param="model",
        )

    def _tell(self, message: ToWorker) -> None:
        for link in self._links:
            link.send(message)
