# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of an agent at random points of its loads: what is visible is the source, and nothing is left over.

Each test is one kill: while the bytes come from an origin, while what came is put in its place on the disk, or while
they are read from the disk. How far the agent has come is seen from outside: by what the origin has sent, and by what
the kernel has counted. `TEST_SEED` repeats a seed.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import pytest

from serverlessllm.config import MIB
from serverlessllm.ingest.convert import convert
from support.agent_process import AgentProcess
from support.model_dirs import write_random
from support.plain_reader import read_region, read_safetensors, read_tensors
from support.platform import eventually
from support.ranged_server import RangedServer
from support.seeds import seeds

WEIGHTS_BYTES: Final = 40 * MIB
ORIGIN_BYTES_PER_S: Final = 400e6
SETTLES_WITHIN_S: Final = 0.05


class Node:
    """An agent, an origin that has the artifact, and the checkpoint that it was made of."""

    def __init__(self, home: Path, agent: AgentProcess, origin: RangedServer, reference: Path) -> None:
        self.agent = agent
        self.origin = origin
        self.here = home / "d" / "artifacts" / reference.name
        self.arena = Path(agent.status().arena_location.split()[0])
        self._reference = reference
        self.files = {path.name for path in reference.iterdir()}
        self.source = read_safetensors((home / "hf" / "model.safetensors").read_bytes())
        self._attempt = 0

    def load(self) -> httpx.Response:
        self._attempt += 1
        return self.agent.load(self.here, attempt=self._attempt, origins=[self.origin.url("/artifact/")])

    def forget(self) -> None:
        """Nothing in DRAM."""
        self._attempt += 1
        answer = self.agent.unload(self.here.name, attempt=self._attempt, drop_bytes=True)
        assert answer.json() == {"unloaded": True}
        status = self.agent.status()
        assert (status.arena_used_bytes, status.regions) == (0, [])

    def in_memory(self) -> dict[str, bytes] | None:
        return read_region(self.arena, self.arena.with_suffix(".table"), self._reference)

    def names(self) -> set[str]:
        """What lies in the artifacts' directory."""
        return {path.name for path in self.here.parent.iterdir()} - {".nvme.json"}

    def read_bytes(self) -> int:
        """What the agent's process has read so far, from files and sockets."""
        return int(Path(f"/proc/{self.agent.pid}/io").read_text().split()[1])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    home = tmp_path_factory.mktemp("node")
    report = convert(write_random(home / "hf", nbytes=WEIGHTS_BYTES), home / "a", dtype=None)
    reference = Path(report.directory)
    files = {f"/artifact/{path.name}": path.read_bytes() for path in reference.iterdir()}
    with (
        RangedServer(files, bytes_per_s=ORIGIN_BYTES_PER_S) as origin,
        AgentProcess(home / "d", sources={"connections": 3}) as agent,
    ):
        made = Node(home, agent, origin, reference)
        assert made.load().status_code == 200
        eventually(made.here.is_dir)
        yield made


def fetching(node: Node, pick: random.Random) -> Callable[[Future[httpx.Response]], bool]:
    """Until the origin has sent some part of the weights."""
    shutil.rmtree(node.here)
    target_bytes = node.origin.served.nbytes + pick.randrange(WEIGHTS_BYTES)
    return lambda call: node.origin.served.nbytes >= target_bytes


def settling(node: Node, pick: random.Random) -> Callable[[Future[httpx.Response]], bool]:
    """Until a moment after the answer, in which the files come to their place."""
    shutil.rmtree(node.here)
    wait_s = pick.uniform(0, SETTLES_WITHIN_S)

    def is_reached(call: Future[httpx.Response]) -> bool:
        if call.done():
            time.sleep(wait_s)  # the random point itself, not a synchronisation
        return call.done()

    return is_reached


def reading(node: Node, pick: random.Random) -> Callable[[Future[httpx.Response]], bool]:
    """Until the agent has read some part of the weights from its disk."""
    target_bytes = node.read_bytes() + pick.randrange(WEIGHTS_BYTES)
    return lambda call: node.read_bytes() >= target_bytes


def check_killed(node: Node, seed: int) -> None:
    """One kill, and what must hold after it."""
    pick = random.Random(seed)
    node.forget()
    is_reached = pick.choice([fetching, settling, reading])(node, pick)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(node.load)
        while not (is_reached(call) or call.done()):
            time.sleep(0.0002)
        node.agent.kill()
        with suppress(httpx.HTTPError):
            call.result()
    assert not node.here.exists() or read_tensors(node.here) == node.source, "a broken artifact is visible"
    assert node.in_memory() in (None, node.source), "a broken region is listed"
    node.agent.start()
    status = node.agent.status()
    assert [region.is_complete for region in status.regions] in ([], [True])
    assert status.arena_used_bytes == len(status.regions) * WEIGHTS_BYTES
    answer = node.load()
    assert answer.status_code == 200, answer.text
    # A load may answer while the rest of its bytes still comes.
    eventually(lambda: all(region.is_complete for region in node.agent.status().regions))
    assert node.in_memory() == node.source
    eventually(lambda: node.names() == {node.here.name})
    assert read_tensors(node.here) == node.source
    assert {path.name for path in node.here.iterdir()} == node.files


@pytest.mark.parametrize("seed", seeds(20))
def test_agent_killed_in_a_load_shows_nothing_broken_and_loads_again(node: Node, seed: int) -> None:
    check_killed(node, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", seeds(300))
def test_agent_killed_in_a_load_shows_nothing_broken_and_loads_again_nightly(node: Node, seed: int) -> None:
    check_killed(node, seed)
