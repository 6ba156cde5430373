# SPDX-License-Identifier: Apache-2.0
"""A directory written aside and renamed into place; what a killed writer left is swept by the next one.

Knows nothing of what is written. The owner of a staging directory holds a `flock` on the directory itself,
which the kernel drops with its last breath: an unlocked `.tmp-…` has no owner. Creation and sweeping exclude
each other by a `flock` on the parent, so that a fresh directory is never seen unlocked.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PREFIX: Final = ".tmp-"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class StagingDirectory:
    """`path` is ours until `publish` or `discard`; call one of them."""

    def __init__(self, parent: Path) -> None:
        """Sweep what dead owners left in `parent` (made if missing), then create and lock ours."""
        parent.mkdir(parents=True, exist_ok=True)
        self._parent = parent
        self.path = parent / f"{PREFIX}{secrets.token_hex(8)}"
        with _locked(parent):
            sweep(parent)
            self.path.mkdir()
            self._fd = os.open(self.path, _DIRECTORY)
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def publish(self, name: str) -> Path:
        """Make the directory durable and visible as `parent/name`. Raises OSError if that exists."""
        os.fsync(self._fd)
        target = self._parent / name
        self.path.rename(target)
        fsync_directory(self._parent)
        self._release()
        return target

    def discard(self) -> None:
        """Remove the directory with all it holds. Harmless after `publish`."""
        if self._fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            self._release()

    def _release(self) -> None:
        os.close(self._fd)
        self._fd = -1


def sweep(parent: Path) -> list[str]:
    """Remove staging directories in `parent` whose owner is gone; returns their names."""
    removed: list[str] = []
    for entry in sorted(parent.glob(f"{PREFIX}*")):
        try:
            fd = os.open(entry, _DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # not a directory, or gone meanwhile
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # its owner lives
        else:
            shutil.rmtree(entry, ignore_errors=True)
            removed.append(entry.name)
        finally:
            os.close(fd)
    return removed


def is_owned(path: Path) -> bool:
    """Whether a living process holds the staging directory `path`."""
    try:
        fd = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def remove_unowned(path: Path) -> bool:
    """Remove a directory that no living process holds; False when one does."""
    try:
        with _locked(path.parent):  # who makes one holds this until its own is locked
            fd = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
    except FileNotFoundError:
        return True
    shutil.rmtree(path, ignore_errors=True)
    os.close(fd)
    return True


def fsync_directory(path: Path) -> None:
    """Make a directory's entries durable."""
    fd = os.open(path, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, _DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
