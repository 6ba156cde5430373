# SPDX-License-Identifier: Apache-2.0
"""The torch engine in real workers: the same ids as in this process, from weights mapped by descriptor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from serverlessllm.config import EngineConfig
from serverlessllm.engine.base import Weights
from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slots import SlotPool
from serverlessllm.node_profile import PROFILE_NAME
from serverlessllm.wire.worker import Attach, Generate, SamplingParams
from support.simulated_slots import answer
from support.tiny_llama import attached_engine, build_tiny

PAGE_BYTES = 4096
NUM_TOKENS = 12
IDLE_SLOT_BYTES = 64 << 20
"""What a primed slot may hold beside what it shares with its zygote; see benchmarks/engine/slots.md."""


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[SlotPool]:
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=1, threads=1, dtype="float32"), ["torch"])
    await pool.start()
    yield pool
    await pool.stop()


@pytest.fixture(scope="module")
def weights() -> Weights:
    return build_tiny("llama").weights


@pytest.fixture
def region_fd(tmp_path: Path, weights: Weights) -> Iterator[int]:
    path = tmp_path / "region"
    path.write_bytes(bytes(weights.region).ljust(region_nbytes(weights), b"\0"))
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def region_nbytes(weights: Weights) -> int:
    return -(-weights.region.nbytes // PAGE_BYTES) * PAGE_BYTES


def request(seed: int) -> Generate:
    return Generate(
        request_id=f"r{seed}",
        prompt_ids=[seed + 3, 40, 41],
        max_tokens=NUM_TOKENS,
        sampling=SamplingParams(temperature=0.0, seed=seed),
        stop_token_ids=[],
    )


async def bound(pool: SlotPool, weights: Weights, region_fd: int) -> Slot:
    slot = await pool.acquire("torch")
    extents = [(0, region_nbytes(weights))]
    await slot.attach(Attach("0" * 32, weights.layout, extents, 8, 0), region_fd)
    return slot


async def test_worker_gives_the_ids_that_the_engine_gives_in_process(
    pool: SlotPool, weights: Weights, region_fd: int
) -> None:
    slot = await bound(pool, weights, region_fd)
    engine = attached_engine(weights)
    engine.add(request(1))
    here = [event.token_id for _ in range(NUM_TOKENS) for event in engine.step()]
    assert await answer(slot, request(1)) == here


async def test_worker_killed_mid_decode_is_followed_by_one_that_gives_the_same_ids(
    pool: SlotPool, weights: Weights, region_fd: int
) -> None:
    first = await bound(pool, weights, region_fd)
    before = await asyncio.gather(*(answer(first, request(seed)) for seed in range(4)))
    os.kill(first.pid, 9)
    await first.lost.wait()
    second = await bound(pool, weights, region_fd)
    assert await asyncio.gather(*(answer(second, request(seed)) for seed in range(4))) == before


async def test_dtype_auto_is_measured_once_and_remembered(tmp_path: Path) -> None:
    profile = tmp_path / PROFILE_NAME
    starts = []
    for _ in range(2):
        pool = SlotPool(tmp_path / "run", EngineConfig(slots=0, threads=1), ["torch"])
        await pool.start()
        dtype = (await pool.acquire("torch")).hello.dtype
        starts.append((dtype, profile.stat().st_ino))
        await pool.stop()
    assert starts[0] == starts[1]
    assert starts[0][0] in profile.read_text()


async def test_slot_that_waits_has_little_memory_of_its_own(tmp_path: Path) -> None:
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=2, threads=2, dtype="float32"), ["torch"])
    await pool.start()
    try:
        slots = [await pool.acquire("torch") for _ in range(2)]
        own_bytes = [psutil.Process(slot.pid).memory_full_info().uss for slot in slots]
    finally:
        await pool.stop()
    assert max(own_bytes) < IDLE_SLOT_BYTES
