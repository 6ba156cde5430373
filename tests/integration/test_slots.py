# SPDX-License-Identifier: Apache-2.0
"""The slot pool with real zygotes and workers of the simulated engine: what an agent sees of them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import struct
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import psutil
import pytest

from serverlessllm.config import EngineConfig
from serverlessllm.engine.simulated.engine import expected_ids
from serverlessllm.engine.slots import SlotPool
from serverlessllm.errors import (
    ConfigError,
    ContextLengthError,
    EngineError,
    ShuttingDownError,
    UnsupportedCheckpointError,
    WorkerLostError,
)
from serverlessllm.wire.worker import Attached, ModelLayout
from support.simulated_slots import answer, attach, bound, expected, request

PAGE_BYTES = 4096
F_OFD_GETLK, F_OFD_SETLK = 36, 37


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[SlotPool]:
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=1), ["simulated"])
    await pool.start()
    yield pool
    await pool.stop()


def processes_below(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def is_locked(path: Path) -> bool:
    """Whether a write lock on the file's first page would be refused: someone holds a read lock."""
    with path.open("r+b") as file:
        query = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, PAGE_BYTES, 0)
        found = fcntl.fcntl(file, F_OFD_GETLK, query)
    return bool(struct.unpack("hhqqi", found)[0] != fcntl.F_UNLCK)


def pinned_descriptor(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.fcntl(descriptor, F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 0, PAGE_BYTES, 0))
    return descriptor


async def test_sixteen_concurrent_requests_each_get_their_exact_ids(pool: SlotPool) -> None:
    slot = await bound(pool, attach())
    answers = await asyncio.gather(*(answer(slot, request(seed, max_tokens=200)) for seed in range(16)))
    assert answers == [expected(seed, 200) for seed in range(16)]


async def test_more_requests_than_seats_all_get_their_exact_ids(pool: SlotPool) -> None:
    slot = await bound(pool, attach(max_num_seqs=2))
    answers = await asyncio.gather(*(answer(slot, request(seed)) for seed in range(16)))
    assert answers == [expected(seed, 50) for seed in range(16)]


async def test_request_of_five_thousand_tokens_of_prompt_is_answered(pool: SlotPool) -> None:
    slot = await bound(pool, attach())
    prompt = list(range(5000))
    ids = await answer(slot, msgspec.structs.replace(request(1), prompt_ids=prompt))
    assert ids == expected_ids(prompt, 1, 0, 50)


async def test_closed_stream_frees_its_seat_in_the_worker(pool: SlotPool) -> None:
    slot = await bound(pool, attach(max_num_seqs=1, options={"token_s": 0.01}))
    async with aclosing(slot.generate(request(1, max_tokens=30_000))) as endless:
        first = await anext(endless)
    assert first.token_id == expected(1, 1)[0]
    assert await answer(slot, request(2, max_tokens=3)) == expected(2, 3)
    assert slot.num_running == 0


async def test_cancelled_reader_leaves_other_streams_whole(pool: SlotPool) -> None:
    slot = await bound(pool, attach(options={"token_s": 0.001}))
    leaver = asyncio.create_task(answer(slot, request(1, max_tokens=30_000)))
    stayer = asyncio.create_task(answer(slot, request(2, max_tokens=100)))
    async with aclosing(slot.generate(request(3))) as marker:
        await anext(marker)
    leaver.cancel()
    assert await stayer == expected(2, 100)
    assert slot.num_running == 0


async def test_request_id_used_again_after_a_cancel_gets_only_its_own_ids(pool: SlotPool) -> None:
    slot = await bound(pool, attach())
    for _ in range(20):
        async with aclosing(slot.generate(request(1, max_tokens=30_000))) as abandoned:
            await anext(abandoned)
        assert await answer(slot, request(2)) == expected(2, 50)


async def test_refused_request_fails_alone(pool: SlotPool) -> None:
    slot = await bound(pool, attach())
    with pytest.raises(ContextLengthError, match="context of 32768 tokens"):
        await answer(slot, request(1, max_tokens=40_000))
    assert await answer(slot, request(2)) == expected(2, 50)


async def test_failed_attach_raises_the_workers_error_and_the_slot_is_replaced(pool: SlotPool) -> None:
    slot = await pool.acquire("simulated")
    broken = ModelLayout(architecture={"vocab_size": -1}, tensors=[], groups=[], aliases={})
    with pytest.raises(UnsupportedCheckpointError, match="vocab_size"):
        await slot.attach(msgspec.structs.replace(attach(), layout=broken), None)
    await slot.lost.wait()
    assert await answer(await bound(pool, attach()), request(1)) == expected(1, 50)


async def test_attach_with_extents_but_no_descriptor_is_an_engine_error(pool: SlotPool) -> None:
    slot = await pool.acquire("simulated")
    with pytest.raises(EngineError, match="no descriptor"):
        await slot.attach(msgspec.structs.replace(attach(), extents=[(0, PAGE_BYTES)]), None)


async def test_second_attach_is_refused_and_the_first_goes_on(pool: SlotPool) -> None:
    slot = await bound(pool, attach())
    with pytest.raises(EngineError, match="already has a model"):
        await slot.attach(attach(), None)
    assert await answer(slot, request(1)) == expected(1, 50)


async def test_pin_passed_to_a_worker_lives_as_long_as_the_worker(pool: SlotPool, tmp_path: Path) -> None:
    arena = tmp_path / "arena"
    arena.write_bytes(bytes(2 * PAGE_BYTES))
    slot = await pool.acquire("simulated")
    pin = pinned_descriptor(arena)
    extents = [(PAGE_BYTES, PAGE_BYTES), (0, PAGE_BYTES)]
    report = await slot.attach(msgspec.structs.replace(attach(), extents=extents), pin)
    os.close(pin)
    assert isinstance(report, Attached)
    assert is_locked(arena)
    await pool.discard(slot)
    assert not is_locked(arena)


async def test_more_callers_than_primed_slots_each_get_their_own(pool: SlotPool) -> None:
    slots = await asyncio.gather(*(pool.acquire("simulated") for _ in range(5)))
    assert len({slot.pid for slot in slots}) == 5
    assert pool.states()["simulated"].num_bound == 5


async def test_pool_fills_up_again_after_an_acquire(pool: SlotPool) -> None:
    await pool.primed()
    taken = await pool.acquire("simulated")
    await pool.primed()
    assert (await pool.acquire("simulated")).pid != taken.pid


async def test_pool_without_spare_slots_forks_on_demand(tmp_path: Path) -> None:
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=0), ["simulated"])
    await pool.start()
    slot = await bound(pool, attach())
    assert await answer(slot, request(1)) == expected(1, 50)
    await pool.stop()


async def test_acquire_abandoned_while_it_waits_leaves_its_slot_to_the_next(tmp_path: Path) -> None:
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=0), ["simulated"])
    await pool.start()
    leaver = asyncio.create_task(pool.acquire("simulated"))
    stayer = asyncio.create_task(pool.acquire("simulated"))
    await asyncio.sleep(0)
    leaver.cancel()
    assert (await stayer).kind == "simulated"
    assert pool.states()["simulated"].num_bound == 1
    await pool.stop()


async def test_discarded_slot_leaves_no_process_and_no_file(pool: SlotPool, tmp_path: Path) -> None:
    slot = await bound(pool, attach())
    await pool.discard(slot)
    await pool.discard(slot)
    assert not psutil.pid_exists(slot.pid)
    assert not (tmp_path / "run" / slot.slot_id).exists()
    with pytest.raises(WorkerLostError, match="closed by the agent"):
        await answer(slot, request(1))


async def test_stop_with_streams_in_flight_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    before = processes_below(os.getpid())
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=2), ["simulated"])
    await pool.start()
    slot = await bound(pool, attach(options={"token_s": 0.01}))
    reader = asyncio.create_task(answer(slot, request(1, max_tokens=30_000)))
    await pool.primed()
    await pool.stop()
    with pytest.raises(WorkerLostError):
        await reader
    assert processes_below(os.getpid()) <= before
    assert list((tmp_path / "run").iterdir()) == []


async def test_stop_right_after_start_ends_those_who_wait(tmp_path: Path) -> None:
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=1), ["simulated"])
    await pool.start()
    waiting = asyncio.create_task(pool.acquire("simulated"))
    await asyncio.sleep(0)
    await pool.stop()
    for refused in (waiting, pool.acquire("simulated")):
        with pytest.raises(ShuttingDownError):
            await refused


async def test_kind_that_is_not_enabled_is_refused(pool: SlotPool) -> None:
    with pytest.raises(ConfigError, match="not enabled"):
        await pool.acquire("torch")


async def test_start_clears_what_a_killed_agent_left(tmp_path: Path) -> None:
    stale = tmp_path / "run" / "simulated-1" / "worker.sock"
    stale.parent.mkdir(parents=True)
    stale.touch()
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=1), ["simulated"])
    await pool.start()
    assert await answer(await bound(pool, attach()), request(1)) == expected(1, 50)
    await pool.stop()


async def test_run_directory_deeper_than_a_socket_path_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    pool = SlotPool(deep, EngineConfig(slots=1), ["simulated"])
    await pool.start()
    assert await answer(await bound(pool, attach()), request(1)) == expected(1, 50)
    await pool.stop()


async def test_simulated_processes_map_no_torch(pool: SlotPool) -> None:
    slot = await pool.acquire("simulated")
    for pid in (slot.pid, pool.states()["simulated"].zygote_pid):
        assert "torch" not in Path(f"/proc/{pid}/maps").read_text()


async def test_worker_keeps_only_its_log_and_its_connection(pool: SlotPool, tmp_path: Path) -> None:
    others = await asyncio.gather(*(pool.acquire("simulated") for _ in range(3)))
    slot = await bound(pool, attach())
    targets = [str(entry.readlink()) for entry in Path(f"/proc/{slot.pid}/fd").iterdir()]
    directory = tmp_path / "run" / slot.slot_id
    assert sorted(target.partition(":")[0] for target in targets) == sorted(
        ["/dev/null", str(directory / "worker.log"), str(directory / "worker.log"), "socket"]
    )
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(others) == 3


async def test_choices_come_side_by_side_and_an_ended_one_stops(pool: SlotPool) -> None:
    slot = await bound(pool, attach(options={"token_s": 0.001}))
    got: dict[int, list[int]] = {0: [], 1: [], 2: []}
    ended: set[int] = set()
    async for event in slot.generate(request(5, max_tokens=200), 3, ended):
        got[event.choice].append(event.token_id)
        if event.choice == 1 and len(got[1]) == 3:
            ended.add(1)
    assert got[0] == expected_ids([5, 4, 5], 5, 0, 200)
    assert got[2] == expected_ids([5, 4, 5], 5, 2, 200)
    assert got[1] == expected_ids([5, 4, 5], 5, 1, len(got[1]))
    assert len(got[1]) < 200
    assert slot.num_running == 0
