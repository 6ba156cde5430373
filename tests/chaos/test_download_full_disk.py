# SPDX-License-Identifier: Apache-2.0
"""A disk that is full: said before a byte is fetched, and normal work after room was made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serverlessllm.errors import CapacityError
from serverlessllm.sources.access import Access
from serverlessllm.sources.fetch import Fetch
from serverlessllm.sources.http_connection import HttpAccess
from serverlessllm.sources.location import Location
from serverlessllm.sources.url_policy import UrlPolicy
from support.ranged_server import RangedServer

DISK_BYTES = 32 << 20
DATA = os.urandom(24 << 20)
ACCESS = Access(HttpAccess(UrlPolicy(allow_private=True)))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_full_disk_is_said_first_and_work_goes_on_when_there_is_room(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(16 << 20))
    with RangedServer({"/m.gguf": DATA}) as server:
        location = Location.parse(server.url("/m.gguf"))
        with pytest.raises(CapacityError, match=r"(\d+) bytes are missing; free some") as caught:
            Fetch(location, disk / "here", ACCESS, max_bytes=1 << 30).run()
        assert server.served.requests == [] and "8388608 bytes are missing" in caught.value.message
        ballast.unlink()
        Fetch(location, disk / "here", ACCESS, max_bytes=1 << 30).run()
    assert (disk / "here" / "m.gguf").read_bytes() == DATA
