# SPDX-License-Identifier: Apache-2.0
"""Thirty loads at once through an arena of four models: all end, and the weights are in nobody's private memory.

The agent is a process of its own, so that what the kernel counts is its memory alone: `RssAnon`, in which mapped
arena pages are not.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.config import MIB
from serverlessllm.loader.own_memory import own_bytes
from support.agent_process import AgentProcess
from support.plain_reader import read_region, read_tensors
from support.platform import eventually
from support.ranged_server import RangedServer
from support.simulated_artifact import write_simulated_artifact

NUM_MODELS: Final = 30
NUM_REMOTE: Final = 10
MODEL_BYTES: Final = 24 * MIB
ROOM: Final = 4
SAMPLE_S: Final = 0.002


def private_bytes(pid: int) -> int:
    """Memory that belongs to the process alone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


@contextmanager
def most_private_bytes(pid: int) -> Iterator[list[int]]:
    """One number, which grows to the most that was seen until the end of the `with`."""
    most, is_over = [private_bytes(pid)], threading.Event()

    def watch() -> None:
        while not is_over.wait(SAMPLE_S):
            most[0] = max(most[0], private_bytes(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    yield most
    is_over.set()
    thread.join()


@pytest.fixture
def artifacts(tmp_path: Path) -> Iterator[list[Artifact]]:
    """The first `NUM_REMOTE` lie elsewhere, the others on the agent's disk."""
    yield [
        write_simulated_artifact(
            tmp_path / ("elsewhere" if number < NUM_REMOTE else "d/artifacts"),
            f"v{number}",
            nbytes=MODEL_BYTES,
        )
        for number in range(NUM_MODELS)
    ]
    shutil.rmtree(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "d" / "artifacts")


def test_thirty_loads_through_room_for_four_end_within_the_stated_memory(
    tmp_path: Path, artifacts: list[Artifact]
) -> None:
    here = tmp_path / "d" / "artifacts"
    served = {
        f"/{one.revision}/{path.name}": path.read_bytes()
        for one in artifacts[:NUM_REMOTE]
        for path in one.directory.iterdir()
    }
    settings = {"arena": {"budget_bytes": ROOM * MODEL_BYTES}, "agent": {"tokenizer_cache_size": 1}}
    with RangedServer(served) as origin, AgentProcess(tmp_path / "d", **settings) as agent:

        def load(number: int) -> int:
            revision = artifacts[number].revision
            origins = [origin.url(f"/{revision}/")] if number < NUM_REMOTE else []
            return agent.load(here / revision, model=f"m{number}", origins=origins).status_code

        assert load(NUM_MODELS - 1) == 200  # what the process needs for its first load is not a load's
        before_bytes = private_bytes(agent.pid)
        with most_private_bytes(agent.pid) as most, ThreadPoolExecutor(NUM_MODELS) as pool:
            assert list(pool.map(load, range(NUM_MODELS))) == [200] * NUM_MODELS
        assert most[0] - before_bytes <= own_bytes(ROOM) < ROOM * MODEL_BYTES
        # A load may answer while the rest of its bytes still comes.
        eventually(lambda: all(region.is_complete for region in agent.status().regions))
        status = agent.status()
        assert len(status.regions) == ROOM
        arena = Path(status.arena_location.split()[0])
        by_revision = {one.revision: one for one in artifacts}
        for region in status.regions:
            directory = by_revision[region.revision].directory
            found = read_region(arena, arena.with_suffix(".table"), directory)
            assert found == read_tensors(directory)
