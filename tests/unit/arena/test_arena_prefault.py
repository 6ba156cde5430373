# SPDX-License-Identifier: Apache-2.0
"""Pages are touched ahead of need, as many as wanted, and only while nobody works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.prefault import Prefaulter
from serverlessllm.config import ArenaConfig
from support.platform import eventually

MIB = 1 << 20


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    config = ArenaConfig(budget_bytes=16 * MIB, extent_bytes=2 * MIB, huge_pages="never")
    opened = Arena.open(tmp_path, config)
    yield opened
    opened.close(keep=False)


@pytest.fixture
def run() -> Iterator[Callable[[Prefaulter], Prefaulter]]:
    started: list[Prefaulter] = []

    def start(prefaulter: Prefaulter) -> Prefaulter:
        started.append(prefaulter)
        prefaulter.start()
        return prefaulter

    yield start
    for prefaulter in started:
        prefaulter.stop()


Run = Callable[[Prefaulter], Prefaulter]


def test_wanted_bytes_are_touched_and_no_more(arena: Arena, run: Run) -> None:
    prefaulter = run(Prefaulter(arena, 6 * MIB))
    eventually(lambda: prefaulter.status().state == "ready")
    status = prefaulter.status()
    assert (status.touched_bytes, status.target_bytes) == (6 * MIB, 6 * MIB)
    assert status.bytes_per_s > 0
    assert arena.free_bytes == 16 * MIB


def test_region_takes_touched_pages_and_others_are_touched_after_it(arena: Arena, run: Run) -> None:
    prefaulter = run(Prefaulter(arena, 6 * MIB))
    eventually(lambda: prefaulter.status().state == "ready")
    region = arena.allocate("a" * 32, 4 * MIB)
    assert arena.touched_free_bytes <= 6 * MIB
    region.view[:] = b"x" * len(region.view)
    eventually(lambda: prefaulter.status().state == "ready" and arena.touched_free_bytes == 6 * MIB)
    assert bytes(region.view[:4]) == b"xxxx"
    assert bytes(region.view[-4:]) == b"xxxx"


def test_nothing_is_touched_while_the_node_works(arena: Arena, run: Run) -> None:
    is_idle = threading.Event()
    prefaulter = run(Prefaulter(arena, 6 * MIB, is_busy=lambda: not is_idle.is_set()))
    eventually(lambda: prefaulter.status().state == "waiting")
    assert arena.touched_free_bytes == 0
    is_idle.set()
    eventually(lambda: arena.touched_free_bytes == 6 * MIB)


def test_nothing_is_touched_where_memory_is_short(arena: Arena, run: Run) -> None:
    prefaulter = run(Prefaulter(arena, 6 * MIB, memory_bytes=lambda: 0))
    eventually(lambda: prefaulter.status().state == "no_memory")
    assert arena.touched_free_bytes == 0


def test_stopped_one_is_off(arena: Arena) -> None:
    prefaulter = Prefaulter(arena, 16 * MIB)
    prefaulter.start()
    prefaulter.stop()
    prefaulter.stop()
    assert prefaulter.status().state == "off"
