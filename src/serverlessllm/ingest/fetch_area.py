# SPDX-License-Identifier: Apache-2.0
"""Where a source's files arrive: one directory per source, kept until an artifact was made of them.

Whoever works in it holds a `flock` on the directory, which the kernel drops with its last breath; an unlocked one
may be removed. What a killed or cancelled fetch left is there for the next one. Knows no protocol and no format.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Self

from blake3 import blake3


def area_name(resolved: str) -> str:
    """The directory's name for a source whose moving parts are pinned."""
    return blake3(resolved.encode()).hexdigest(length=16)


class FetchArea:
    """`path` is ours until `close` (what is in it stays) or `discard`. Use in a `with`."""

    def __init__(self, parent: Path, resolved: str, *, wait: bool = True) -> None:
        """Make it if it is missing, and lock it; with `wait` until another owner has ended.

        Raises: BlockingIOError without `wait` when somebody works in it; other OSErrors of the disk.
        """
        self.path = parent / area_name(resolved)
        self._fd = -1
        while self._fd < 0:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = _lock(self.path, wait=wait)

    def discard(self) -> None:
        """Remove the directory with all it holds."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let others work in it. Idempotent."""
        if self._fd >= 0:
            os.utime(self._fd)  # its age counts from now
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sweep(parent: Path, keep: Collection[str], older_than_s: float) -> list[str]:
    """Remove the areas that nobody works in, that are not in `keep`, and that were left so long ago; their names."""
    oldest_s = time.time() - older_than_s
    return [
        path.name
        for path in _idle_areas(parent)
        if path.name not in keep and path.stat().st_mtime <= oldest_s and _remove(path)
    ]


def make_room(parent: Path, need_bytes: int) -> int:
    """Remove areas that nobody works in, the longest left first, until `need_bytes` are free; the bytes free then."""
    for path in _idle_areas(parent):
        if free_bytes(parent) >= need_bytes:
            break
        _remove(path)
    return free_bytes(parent)


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write on the file system of `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _idle_areas(parent: Path) -> list[Path]:
    """Every area, the longest left first."""
    if not parent.is_dir():
        return []
    return sorted((path for path in parent.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)


def _remove(path: Path) -> bool:
    """Remove the area unless somebody works in it."""
    try:
        fd = _lock(path, wait=False)
    except OSError:
        return False
    if fd < 0:
        return False
    shutil.rmtree(path, ignore_errors=True)
    os.close(fd)
    return True


def _lock(path: Path, *, wait: bool) -> int:
    """A descriptor that holds the lock; -1 if the directory was removed meanwhile."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if path.exists() and path.samefile(f"/proc/self/fd/{fd}"):
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return -1
