# SPDX-License-Identifier: Apache-2.0
"""Staging: what a dead owner left is swept, what a living one writes is not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serverlessllm.checkpoint.staging import StagingDirectory, sweep

_OWNER = """
import sys, pathlib
from serverlessllm.checkpoint.staging import StagingDirectory
staging = StagingDirectory(pathlib.Path(sys.argv[1]))
(staging.path / "half").write_bytes(b"x")
print("ready", flush=True)
sys.stdin.read()
"""


def test_published_directory_has_its_name_and_content(tmp_path: Path) -> None:
    staging = StagingDirectory(tmp_path / "new")
    (staging.path / "file").write_bytes(b"x")
    assert staging.publish("name") == tmp_path / "new" / "name"
    staging.discard()
    assert (tmp_path / "new" / "name" / "file").read_bytes() == b"x"


def test_living_owner_is_not_swept(tmp_path: Path) -> None:
    staging = StagingDirectory(tmp_path)
    assert sweep(tmp_path) == []
    assert staging.path.is_dir()
    staging.discard()
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_owner_are_swept_by_the_next(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        (left,) = tmp_path.iterdir()
        owner.send_signal(signal.SIGKILL)
    staging = StagingDirectory(tmp_path)
    assert not left.exists()
    staging.discard()


def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "file").write_bytes(b"x")
    staging = StagingDirectory(tmp_path)
    with pytest.raises(OSError, match="not empty"):
        staging.publish("name")
    staging.discard()
    assert [entry.name for entry in tmp_path.iterdir()] == ["name"]
