# SPDX-License-Identifier: Apache-2.0
"""A real data directory: what is seen of it, and what can be taken away under the eyes of other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serverlessllm.clock import SystemClock
from serverlessllm.loader.disk.inventory import DiskInventory
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.wire.disk import DiskCopy, DiskStatus
from support.simulated_artifact import write_simulated_artifact

REVISION = "ab" * 16


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Another process works on the directory."""
    program = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    with process:
        assert process.stdout.readline() == b"held\n"
        yield
        process.stdin.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An artifact, a half-fetched one, a fetched source, a quarantined file and a left-over."""
    artifacts = tmp_path / "artifacts"
    write_simulated_artifact(artifacts)
    for path in (
        artifacts / f".fetch-{REVISION}" / "model.bin.part",
        artifacts / ".bad" / f"{REVISION}-model.bin.0",
        artifacts / ".tmp-0123456789abcdef" / "model.bin",
        tmp_path / "ingest" / "fetch" / "0123" / "model.gguf.part",
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(os.urandom(10_000))
    return tmp_path


def inventory(home: Path) -> DiskInventory:
    return DiskInventory(home, NvmeTier(home / "artifacts", 0, SystemClock()))


def of_kind(status: DiskStatus, kind: str) -> DiskCopy:
    [found] = [copy for copy in status.copies if copy.kind == kind]
    return found


def test_everything_is_seen_with_its_revision_and_size(home: Path) -> None:
    status = inventory(home).status("node", models={REVISION: ["qwen"]})
    kinds = {copy.kind for copy in status.copies}
    assert kinds == {"artifact", "fetching", "quarantined", "leftover", "source"} and len(status.copies) == 5
    assert of_kind(status, "fetching").models == ["qwen"] == of_kind(status, "quarantined").models
    assert of_kind(status, "artifact").models == []
    assert status.held_bytes == sum(copy.nbytes for copy in status.copies) >= 40_000
    assert not any(copy.is_in_use for copy in status.copies)


@pytest.mark.parametrize("kind", ["fetching", "leftover", "source"])
def test_what_another_process_works_on_is_in_use_and_stays(home: Path, kind: str) -> None:
    disk = inventory(home)
    idle = of_kind(disk.status("node"), kind)
    with held(home / idle.path):
        assert of_kind(disk.status("node"), kind).is_in_use
        path = disk.take_away(idle)
        assert path is None or not disk.delete(path)
        assert (home / idle.path).is_dir()
    path = disk.take_away(idle)
    assert path is not None and disk.delete(path) and not (home / idle.path).exists()


def test_artifact_vanishes_in_one_step_and_is_forgotten(home: Path) -> None:
    disk = inventory(home)
    tier = NvmeTier(home / "artifacts", 0, SystemClock())
    artifact = of_kind(disk.status("node"), "artifact")
    tier.note_use(artifact.revision, ["s3://b/r"])
    with (home / artifact.path / "model.bin").open("rb") as reader:
        path = disk.take_away(artifact)
        assert path is not None and not (home / artifact.path).exists()
        assert disk.delete(path) and tier.record.read() == {}
        assert reader.read(4)  # who reads it already goes on
    assert disk.take_away(artifact) is None


def test_emptied_directory_holds_nothing(home: Path) -> None:
    disk = inventory(home)
    for copy in disk.status("node").copies:
        path = disk.take_away(copy)
        assert path is not None and disk.delete(path)
    assert disk.status("node").copies == []
