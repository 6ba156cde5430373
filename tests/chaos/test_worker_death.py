# SPDX-License-Identifier: Apache-2.0
"""kill -9 of workers, zygotes and agents: only the dead one's requests fail, and no process outlives its agent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from serverlessllm.config import EngineConfig
from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slots import SlotPool
from serverlessllm.errors import EngineError, WorkerLostError
from serverlessllm.wire.worker import Generate
from support.simulated_slots import answer, attach, bound, expected, request

PATIENCE_S = 60.0
"""How long anything may take before a test calls it lost; machines are shared."""
ENDLESS_TOKENS = 30_000
LONG_LOAD_S = 600.0

AGENT = """
import asyncio, sys
from pathlib import Path
from serverlessllm.config import EngineConfig
from serverlessllm.engine.slots import SlotPool

async def main():
    pool = SlotPool(Path(sys.argv[1]), EngineConfig(slots=2), ["simulated"])
    await pool.start()
    bound = await pool.acquire("simulated")
    await pool.primed()
    print(bound.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[SlotPool]:
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=1), ["simulated"])
    await pool.start()
    yield pool
    await pool.stop()


async def collect(slot: Slot, generate: Generate, into: list[int], begun: asyncio.Event) -> None:
    async for event in slot.generate(generate):
        into.append(event.token_id)
        begun.set()


def zygote_pid(pool: SlotPool) -> int:
    pid = pool.states()["simulated"].zygote_pid
    assert pid is not None
    return pid


async def test_worker_killed_mid_decode_fails_only_its_own_requests(pool: SlotPool) -> None:
    dying, living = [await bound(pool, attach(options={"token_s": 0.001})) for _ in range(2)]
    ids: list[int] = []
    begun = asyncio.Event()
    doomed = asyncio.create_task(collect(dying, request(1, max_tokens=ENDLESS_TOKENS), ids, begun))
    spared = asyncio.create_task(answer(living, request(2, max_tokens=300)))
    await begun.wait()
    os.kill(dying.pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="is gone"):
        await doomed
    assert dying.lost.is_set()
    assert ids == expected(1, len(ids))
    assert await spared == expected(2, 300)


async def test_pool_is_whole_again_after_a_bound_worker_was_killed(pool: SlotPool) -> None:
    slot = await bound(pool, attach())
    os.kill(slot.pid, signal.SIGKILL)
    await slot.lost.wait()
    await pool.discard(slot)
    assert await answer(await bound(pool, attach()), request(1)) == expected(1, 50)
    await pool.primed()


async def test_worker_killed_mid_attach_fails_the_attach(pool: SlotPool) -> None:
    slot = await pool.acquire("simulated")
    attaching = asyncio.create_task(slot.attach(attach(options={"load_s": LONG_LOAD_S}), None))
    await asyncio.sleep(0)
    os.kill(slot.pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        await attaching


async def test_primed_worker_killed_while_it_waits_is_never_handed_out(pool: SlotPool) -> None:
    await pool.primed()
    victim = next(child for child in psutil.Process(zygote_pid(pool)).children())
    victim.kill()
    psutil.wait_procs([victim], timeout=PATIENCE_S)
    slot = await bound(pool, attach())
    assert await answer(slot, request(1)) == expected(1, 50)


async def test_killed_zygote_takes_its_workers_and_is_replaced(pool: SlotPool) -> None:
    slot = await bound(pool, attach(options={"token_s": 0.001}))
    before = zygote_pid(pool)
    doomed = asyncio.create_task(answer(slot, request(1, max_tokens=ENDLESS_TOKENS)))
    os.kill(before, signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        await doomed
    assert await answer(await bound(pool, attach()), request(2)) == expected(2, 50)
    assert zygote_pid(pool) != before
    assert pool.states()["simulated"].num_restarts == 1


async def test_zygote_killed_again_and_again_costs_no_waiting_caller_its_slot(pool: SlotPool) -> None:
    for _ in range(3):
        await pool.primed()
        slot = await pool.acquire("simulated")
        waiting = asyncio.create_task(pool.acquire("simulated"))
        os.kill(zygote_pid(pool), signal.SIGKILL)
        await slot.lost.wait()
        assert (await waiting).kind == "simulated"
        await pool.discard(slot)


def test_killed_agent_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AGENT, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        bound_pid = int(agent.stdout.readline())
        family = psutil.Process(agent.pid).children(recursive=True)
        agent.kill()
    gone, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert alive == []
    assert bound_pid in {process.pid for process in gone}
    assert len(gone) == 4  # the zygote, one bound and two primed workers


async def test_engine_that_cannot_be_imported_fails_its_callers_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('this machine has no torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pool = SlotPool(tmp_path / "run", EngineConfig(slots=1), ["torch", "simulated"])
    await pool.start()
    with pytest.raises(EngineError, match="this machine has no torch"):
        await pool.acquire("torch")
    assert await answer(await bound(pool, attach()), request(1)) == expected(1, 50)
    await pool.stop()
