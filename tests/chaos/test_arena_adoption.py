# SPDX-License-Identifier: Apache-2.0
"""kill -9 of an agent: what was whole is adopted, what a worker still reads stays, the rest is cleared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serverlessllm.arena.arena import Arena
from serverlessllm.config import ArenaConfig
from serverlessllm.errors import ConflictError

DEADLINE_S = 30.0
MIB = 1 << 20
A, B = "a" * 32, "b" * 32
CONFIG = ArenaConfig(budget_bytes=8 * MIB, extent_bytes=2 * MIB, huge_pages="never")

WORKER = """
import os, sys
from serverlessllm.arena.mapping import map_extents
mapping = map_extents(int(sys.argv[1]), [(0, 2 << 20)], writable=False)
print("worker", os.getpid(), mapping.view[0], flush=True)
sys.stdin.read()
"""

AGENT = f"""
import subprocess, sys, time
from pathlib import Path
from serverlessllm.arena.arena import Arena
from serverlessllm.config import ArenaConfig
arena = Arena.open(Path(sys.argv[1]), {CONFIG!r})
whole = arena.allocate({A!r}, 2 << 20)
whole.view[:] = bytes([7]) * len(whole.view)
arena.publish(whole)
pin = arena.pin({A!r})
subprocess.Popen([sys.executable, "-c", {WORKER!r}, str(pin.fd)], pass_fds=[pin.fd])
pin.close()
half = arena.allocate({B!r}, 3 << 20)
half.view[:] = bytes([9]) * len(half.view)
time.sleep(3600)
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


@pytest.fixture
def worker_pid(tmp_path: Path) -> Iterator[int]:
    """A worker that maps and pins revision A, whose agent was killed while it loaded B."""
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert agent.stdout is not None and agent.stdin is not None
    _, pid, first_byte = agent.stdout.readline().split()
    assert first_byte == "7"
    agent.kill()
    agent.wait()
    yield int(pid)
    agent.stdin.close()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    agent.stdout.close()


def test_new_agent_sees_the_pin_of_a_surviving_worker(tmp_path: Path, worker_pid: int) -> None:
    arena = Arena.open(tmp_path, CONFIG)
    assert arena.adopted == (A,)
    assert arena.is_pinned(A)
    with pytest.raises(ConflictError):
        arena.release(A)
    os.kill(worker_pid, signal.SIGKILL)
    wait_for(lambda: not arena.is_pinned(A))
    arena.release(A)
    arena.close(keep=False)


def test_half_loaded_region_of_a_killed_agent_is_cleared(tmp_path: Path, worker_pid: int) -> None:
    arena = Arena.open(tmp_path, CONFIG)
    assert [entry.revision for entry in arena.entries()] == [A]
    assert arena.path.stat().st_blocks * 512 == 2 * MIB
    region = arena.allocate(B, 6 * MIB)
    assert not any(region.view)
    del region
    arena.close(keep=False)


def test_bytes_under_a_pin_are_not_reused_though_the_table_is_lost(tmp_path: Path, worker_pid: int) -> None:
    found = Arena.open(tmp_path, CONFIG)
    found.close(keep=True)
    found.path.with_suffix(".table").unlink()
    arena = Arena.open(tmp_path, CONFIG)
    assert arena.adopted == ()
    assert arena.free_bytes == 6 * MIB
    os.kill(worker_pid, signal.SIGKILL)
    wait_for(lambda: arena.free_bytes == 8 * MIB)
    arena.close(keep=False)
