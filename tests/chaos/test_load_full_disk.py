# SPDX-License-Identifier: Apache-2.0
"""A full disk and a full arena under an agent whose models lie elsewhere: said clearly, and forgotten with room.

Needs root, to mount a small file system.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.config import MIB
from support.agent_process import AgentProcess
from support.plain_reader import read_tensors
from support.platform import eventually
from support.ranged_server import RangedServer
from support.simulated_artifact import write_simulated_artifact
from support.small_disk import fill, small_disk

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
DISK_BYTES: Final = 96 * MIB
MODEL_BYTES: Final = 24 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as point:
        yield point


@pytest.fixture
def artifacts(tmp_path: Path) -> list[Artifact]:
    return [write_simulated_artifact(tmp_path / "a", f"v{i}", nbytes=MODEL_BYTES) for i in range(3)]


@pytest.fixture
def origin(artifacts: list[Artifact]) -> Iterator[RangedServer]:
    objects = {
        f"/{one.revision}/{path.name}": path.read_bytes()
        for one in artifacts
        for path in one.directory.iterdir()
    }
    with RangedServer(objects) as server:
        yield server


class Node:
    """An agent on `disk`, asked for artifacts that lie at `origin`."""

    def __init__(self, disk: Path, origin: RangedServer, **settings: Mapping[str, Any]) -> None:
        self.agent = AgentProcess(disk / "d", **settings)
        self.artifacts = disk / "d" / "artifacts"
        self._origin = origin

    def load(self, artifact: Artifact, model: str, **fields: Any) -> tuple[int, str]:
        """Status, and the error's code."""
        origins = [self._origin.url(f"/{artifact.revision}/")]
        directory = self.artifacts / artifact.revision
        answer = self.agent.load(directory, model=model, origins=origins, **fields)
        return answer.status_code, answer.json().get("error", {}).get("code", "")

    def has(self, artifact: Artifact) -> bool:
        """Whether it is whole on the disk."""
        here = self.artifacts / artifact.revision
        return here.is_dir() and read_tensors(here) == read_tensors(artifact.directory)


def test_full_disk_is_an_error_at_once_and_the_load_goes_on_with_room(
    disk: Path, origin: RangedServer, artifacts: list[Artifact]
) -> None:
    node = Node(disk, origin, loader={"nvme_budget_bytes": 80 * MIB})
    with node.agent:
        hog = fill(disk, leave_bytes=20 * MIB)
        assert node.load(artifacts[0], "m") == (503, "disk_full")
        assert not [one for one in origin.served.requests if one.path.endswith("model.bin")]
        status = node.agent.status()
        assert (status.arena_used_bytes, status.replicas) == (0, [])
        hog.unlink()
        assert node.load(artifacts[0], "m", attempt=2) == (200, "")
        eventually(lambda: node.has(artifacts[0]))


def test_spent_disk_budget_evicts_what_an_origin_has_and_else_is_an_error(
    disk: Path, origin: RangedServer, artifacts: list[Artifact]
) -> None:
    first, second, third = artifacts
    node = Node(disk, origin, loader={"nvme_budget_bytes": 60 * MIB}, engine={"max_replicas": 2})
    with node.agent:
        assert node.load(first, "a") == node.load(second, "b") == (200, "")
        eventually(lambda: node.has(first) and node.has(second))
        assert node.load(third, "c", evict_idle=True) == (200, "")  # unbinds one of them
        eventually(lambda: node.has(third))
        assert sum(node.has(one) for one in artifacts) == 2


def test_full_arena_is_an_error_in_time_and_the_load_goes_on_with_room(
    disk: Path, origin: RangedServer, artifacts: list[Artifact]
) -> None:
    settings: dict[str, dict[str, Any]] = {
        "arena": {"budget_bytes": 30 * MIB},
        "agent": {"load_timeout_s": 1.0},
    }
    node = Node(disk, origin, **settings)
    with node.agent:
        assert node.load(artifacts[0], "a") == (200, "")
        assert node.load(artifacts[1], "b", evict_idle=False) == (503, "no_capacity")
        assert [region.revision for region in node.agent.status().regions] == [artifacts[0].revision]
        node.agent.unload(artifacts[0].revision, model="a", attempt=2)
        assert node.load(artifacts[1], "b", evict_idle=False, attempt=2) == (200, "")
