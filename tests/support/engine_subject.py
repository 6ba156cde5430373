# SPDX-License-Identifier: Apache-2.0
"""One bound slot of any engine, and what it must answer: what the conformance suite asks of all of them alike."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from serverlessllm.config import EngineConfig
from serverlessllm.engine.simulated.engine import expected_ids
from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slots import SlotPool
from serverlessllm.types import EngineKind
from serverlessllm.wire.worker import Attach, Generate, ModelLayout, TokenEvent
from support.tiny_llama import TinyModel, build_tiny

PAGE_BYTES = 4096
VOCAB_SIZE = 211
CONTEXT_TOKENS = 512
MAX_NUM_SEQS = 4
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
"""vLLM's attention on a CPU takes heads of 32 and more."""

Expected = Callable[[list[int], int], list[int]]


@dataclass(frozen=True)
class Subject:
    """`expected(prompt_ids, num)`: the greedy answer (of `simulated`: the answer to seed 0)."""

    kind: EngineKind
    slot: Slot
    expected: Expected

    async def events(self, request: Generate, num_choices: int = 1) -> list[TokenEvent]:
        """A whole answer."""
        async with aclosing(self.slot.generate(request, num_choices)) as events:
            return [event async for event in events]

    async def ids(self, request: Generate) -> list[int]:
        """The ids of a whole answer of one choice."""
        return [event.token_id for event in await self.events(request)]


@asynccontextmanager
async def bound_subject(kind: EngineKind, run_dir: Path, *, num_ranks: int = 1) -> AsyncIterator[Subject]:
    """`num_ranks` workers of `kind` with a tiny random model, whose weights are in memory and in no named file."""
    pool = SlotPool(run_dir, EngineConfig(slots=0, threads=num_ranks, dtype="float32"), [kind])
    await pool.start()
    try:
        slot = await pool.acquire(kind, num_ranks)
        if kind == "simulated":
            architecture: dict[str, object] = {
                "vocab_size": VOCAB_SIZE,
                "max_position_embeddings": CONTEXT_TOKENS,
            }
            layout = ModelLayout(architecture, [], [], {})
            await slot.attach(Attach("0" * 32, layout, [], MAX_NUM_SEQS, 0), None)
            yield Subject(kind, slot, _chain)
        else:
            tiny = build_tiny("llama", SHAPE)
            await _attach(slot, tiny)
            yield Subject(kind, slot, _greedy(tiny))
    finally:
        await pool.stop()


async def _attach(slot: Slot, tiny: TinyModel) -> None:
    data = bytes(tiny.weights.region)
    nbytes = -(-len(data) // PAGE_BYTES) * PAGE_BYTES
    descriptor = os.memfd_create("weights")
    try:
        os.write(descriptor, data.ljust(nbytes, b"\0"))
        half = (
            nbytes // 2 // PAGE_BYTES * PAGE_BYTES
        )  # two extents: one tensor crosses the border between them
        extents = [(0, half), (half, nbytes - half)]
        await slot.attach(Attach("0" * 32, tiny.weights.layout, extents, MAX_NUM_SEQS, 0), descriptor)
    finally:
        os.close(descriptor)


def _chain(prompt_ids: list[int], num: int) -> list[int]:
    return expected_ids(prompt_ids, 0, 0, num, vocab_size=VOCAB_SIZE)


def _greedy(tiny: TinyModel) -> Expected:
    def expected(prompt_ids: list[int], num: int) -> list[int]:
        ids = list(prompt_ids)
        for _ in range(num):
            ids.append(int(tiny.reference_logits(ids)[-1].argmax()))
        return ids[len(prompt_ids) :]

    return expected
