# SPDX-License-Identifier: Apache-2.0
"""Tensor parallelism in real workers: the ids of one worker, from two that each have a part of the weights."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest
import torch

from serverlessllm.config import EngineConfig
from serverlessllm.engine.llama.block_store import block_bytes
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slots import SlotPool
from serverlessllm.errors import (
    ConfigError,
    UnsupportedCheckpointError,
    UnsupportedFieldError,
    WorkerLostError,
)
from serverlessllm.text.grammar import json_grammar
from serverlessllm.wire.worker import Attach, Embed, LoadAdapter, Spellings
from support.llama_oracle import VOCAB, Arrival, Oracle, Played, unshared
from support.platform import PATIENCE_S
from support.seeds import seeds
from support.simulated_slots import answer
from support.tiny_llama import TinyModel, attached_engine, build_tiny, generate_ids, request

PAGE_BYTES = 4096
NUM_ARRIVALS = 9
STOP_ID = 128
SPELLINGS = Spellings([*(bytes([byte]) for byte in range(128)), b"<eos>"], [STOP_ID], [STOP_ID])


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[SlotPool]:
    config = EngineConfig(slots=1, threads=2, dtype="float32", tensor_parallel=2)
    pool = SlotPool(tmp_path / "run", config, ["torch"])
    await pool.start()
    yield pool
    await pool.stop()


async def bound(pool: SlotPool, tiny: TinyModel, *, num_ranks: int = 2, kv_cache_bytes: int = 0) -> Slot:
    """A group with `tiny`, whose region is a file in memory that only the ranks have open afterwards."""
    slot = await pool.acquire("torch", num_ranks)
    nbytes = -(-tiny.weights.region.nbytes // PAGE_BYTES) * PAGE_BYTES
    descriptor = os.memfd_create("weights")
    try:
        os.write(descriptor, bytes(tiny.weights.region).ljust(nbytes, b"\0"))
        attach = Attach("0" * 32, tiny.weights.layout, [(0, nbytes)], 6, 0, kv_cache_bytes=kv_cache_bytes)
        await slot.attach(attach, descriptor)
    finally:
        os.close(descriptor)
    return slot


def ranks_of(slot: Slot) -> list[psutil.Process]:
    """The processes of its group: rank 0, then the others."""
    leader = psutil.Process(slot.pid)
    siblings = psutil.Process(leader.ppid()).children()
    return [leader, *(each for each in siblings if each.name().startswith(f"{leader.name()}."))]


def random_arrivals(rng: random.Random) -> list[Arrival]:
    """Prompts that begin alike, some cancelled, some of several choices."""
    base = [rng.randrange(VOCAB) for _ in range(90)]
    return [
        Arrival(
            gap_steps=rng.randrange(20),
            prompt_ids=base[: rng.randint(1, 90)] + [rng.randrange(9)] * rng.randrange(3),
            max_tokens=rng.randint(1, 50),
            temperature=rng.choice([0.0, 1.0]),
            seed=rng.randrange(99),
            cancel_after=rng.choice([None, None, rng.randint(1, 20)]),
            num_choices=rng.choice([1, 1, 2]),
        )
        for _ in range(NUM_ARRIVALS)
    ]


async def play(slot: Slot, arrivals: list[Arrival]) -> Played:
    """The ids that each choice got; each request begins when so many ids came since the one before."""
    got: Played = {}
    came = asyncio.Event()

    async def run(number: int, arrival: Arrival) -> None:
        first = arrival.as_requests(number)[0]
        async with aclosing(slot.generate(first, arrival.num_choices)) as events:
            async for event in events:
                got[number, event.choice].append(event.token_id)
                came.set()
                if (
                    arrival.cancel_after is not None
                    and len(got[number, event.choice]) >= arrival.cancel_after
                ):
                    return

    tasks: list[asyncio.Task[None]] = []
    for number, arrival in enumerate(arrivals):
        target = sum(map(len, got.values())) + arrival.gap_steps
        while sum(map(len, got.values())) < target and not all(task.done() for task in tasks):
            came.clear()
            await asyncio.wait_for(came.wait(), PATIENCE_S)
        got |= {(number, item.choice): [] for item in arrival.as_requests(number)}
        tasks.append(asyncio.create_task(run(number, arrival)))
        tasks[-1].add_done_callback(lambda _: came.set())
    await asyncio.gather(*tasks)
    return got


@pytest.mark.parametrize("seed", seeds(2))
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("qwen2", {"num_key_value_heads": 1, "vocab_size": VOCAB, "tie_word_embeddings": True}),
        ("qwen3", {"vocab_size": VOCAB + 1}),
        ("gemma2", {"sliding_window": 32}),
    ],
)
async def test_ids_of_two_ranks_equal_those_of_one_over_random_schedules(
    pool: SlotPool, family: str, changes: dict[str, object], seed: int
) -> None:
    tiny = build_tiny(family, changes, seed=3)
    slot = await bound(pool, tiny, kv_cache_bytes=5 * block_bytes_of(tiny))
    arrivals = random_arrivals(random.Random(seed))
    oracle = Oracle(tiny, unshared(tiny))
    oracle.compare_all(arrivals, await play(slot, arrivals))
    assert oracle.num_near_ties <= 1


def block_bytes_of(tiny: TinyModel) -> int:
    """Of one block of keys and values in float32 on both ranks together; a single key head is on each."""
    config = LlamaConfig.parse(tiny.weights.layout.architecture)
    return block_bytes(replace(config, num_kv_heads=max(2, config.num_kv_heads)), torch.float32)


async def test_rank_killed_in_mid_answer_ends_the_group_and_the_next_gives_the_same_ids(
    pool: SlotPool,
) -> None:
    tiny = build_tiny("llama")
    slot = await bound(pool, tiny)
    expected = await answer(slot, request("a", [5, 6, 7], 12))
    ranks = ranks_of(slot)
    with pytest.raises(WorkerLostError):
        async with aclosing(slot.generate(request("long", [5, 6, 7], 400))) as events:
            await anext(events)
            ranks[1].kill()
            async for _ in events:
                pass
    await pool.discard(slot)
    assert len(ranks) == 2
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
    assert await answer(await bound(pool, tiny), request("a", [5, 6, 7], 12)) == expected


async def test_rank_killed_while_idle_is_noticed_and_the_group_replaced(pool: SlotPool) -> None:
    slot = await bound(pool, build_tiny("llama"))
    ranks_of(slot)[1].kill()
    async with asyncio.timeout(PATIENCE_S):
        await slot.lost.wait()


async def test_every_rank_holds_the_region(pool: SlotPool) -> None:
    slot = await bound(pool, build_tiny("llama"))
    for rank in ranks_of(slot):
        links = [str(entry.readlink()) for entry in Path(f"/proc/{rank.pid}/fd").iterdir()]
        assert sum(link.startswith("/memfd:weights") for link in links) == 1


async def test_heads_that_do_not_divide_are_refused_by_name(pool: SlotPool) -> None:
    tiny = build_tiny("llama", {"num_attention_heads": 3, "num_key_value_heads": 3})
    with pytest.raises(UnsupportedCheckpointError, match="num_attention_heads: 3 do not divide among 2"):
        await bound(pool, tiny)


async def test_embeddings_and_formats_are_those_of_one_rank_and_adapters_are_refused(pool: SlotPool) -> None:
    tiny = build_tiny("llama")
    slot = await bound(pool, tiny)
    engine = attached_engine(tiny.weights)
    engine.embed(Embed("e", [[5, 6, 7], [9] * 40], "mean"))
    while engine.has_work:
        engine.step()
    here = engine.take_embedded()[0].vectors
    there = (await slot.embed(Embed("e", [[5, 6, 7], [9] * 40], "mean"))).vectors
    assert [_floats(each) for each in there] == [pytest.approx(_floats(each), abs=1e-4) for each in here]
    slot.teach(SPELLINGS)
    engine.set_spellings(SPELLINGS)
    asked = msgspec.structs.replace(
        request("g", [7, 9], 40, stop_token_ids=(STOP_ID,)),
        grammar=json_grammar({"enum": ["Rome", "Bern"]}, "s"),
    )
    assert await answer(slot, asked) == generate_ids(engine, asked)["g"]
    with pytest.raises(UnsupportedFieldError, match="tensor parallelism"):
        await slot.load_adapter(LoadAdapter("a" * 32, tiny.weights.layout, []))


async def test_group_of_an_engine_without_ranks_is_refused(tmp_path: Path) -> None:
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=0), ["simulated"])
    await pool.start()
    try:
        with pytest.raises(ConfigError, match="in one worker, not in 2"):
            await pool.acquire("simulated", 2)
    finally:
        await pool.stop()


def _floats(vector: bytes) -> list[float]:
    return [float(each) for each in memoryview(vector).cast("f")]
