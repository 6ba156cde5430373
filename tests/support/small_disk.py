# SPDX-License-Identifier: Apache-2.0
"""A small file system of a test's own, and somebody who fills it. Mounting needs root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serverlessllm.arena import libc


@contextmanager
def small_disk(point: Path, nbytes: int) -> Iterator[Path]:
    """A tmpfs of `nbytes` on `point`, until the end of the `with`."""
    point.mkdir()
    libc.mount_tmpfs("small", str(point), f"size={nbytes}")
    try:
        yield point
    finally:
        libc.umount(str(point))


def fill(disk: Path, *, leave_bytes: int) -> Path:
    """Somebody else's file, which leaves so much."""
    status = os.statvfs(disk)
    hog = disk / "hog"
    hog.write_bytes(bytes(status.f_bavail * status.f_frsize - leave_bytes))
    return hog
