# SPDX-License-Identifier: Apache-2.0
"""Requests to slots of the simulated engine, and the ids that must come back."""

from __future__ import annotations

from serverlessllm.engine.simulated.engine import expected_ids
from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slots import SlotPool
from serverlessllm.wire.worker import Attach, Generate, ModelLayout, SamplingParams


def attach(*, max_num_seqs: int = 16, options: dict[str, float] | None = None) -> Attach:
    """A model without weights. `options` are the simulated engine's times in seconds."""
    return Attach(
        revision="0" * 32,
        layout=ModelLayout(architecture={"vocab_size": 32_000}, tensors=[], groups=[], aliases={}),
        extents=[],
        max_num_seqs=max_num_seqs,
        max_model_len_tokens=0,
        options=options or {},
    )


def request(seed: int, *, max_tokens: int = 50) -> Generate:
    """A request whose prompt and answer both follow from `seed`."""
    return Generate(
        request_id="r",
        prompt_ids=[seed, 4, 5],
        max_tokens=max_tokens,
        sampling=SamplingParams(seed=seed),
        stop_token_ids=[],
    )


def expected(seed: int, num: int) -> list[int]:
    """The first `num` ids of the answer to `request(seed)`."""
    return expected_ids([seed, 4, 5], seed, 0, num)


async def bound(pool: SlotPool, message: Attach) -> Slot:
    """A slot of `pool` with `message` attached."""
    slot = await pool.acquire("simulated")
    await slot.attach(message, None)
    return slot


async def answer(slot: Slot, generate: Generate) -> list[int]:
    """All ids of one answer."""
    return [event.token_id async for event in slot.generate(generate)]
