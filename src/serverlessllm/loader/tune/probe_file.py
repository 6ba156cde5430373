# SPDX-License-Identifier: Apache-2.0
"""A file to measure a disk with. It has no name, so it is gone when this process ends, however it ends."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from serverlessllm.config import MIB
from serverlessllm.errors import CapacityError, ModelLoadError

GRAIN_BYTES: Final = 8 * MIB
MIN_BYTES: Final = 4 * GRAIN_BYTES
RESERVE_BYTES: Final = 256 * MIB
"""Left free on the disk in any case."""


class ProbeFile:
    """Random bytes, so that nothing below can compress or merge them. Use in a `with`."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """Raises: CapacityError when the disk has no room for `max_bytes`; ModelLoadError when it refuses files."""
        self.directory = directory
        self._max_bytes = max(MIN_BYTES, max_bytes // GRAIN_BYTES * GRAIN_BYTES)
        status = os.statvfs(directory)
        free_bytes = status.f_bavail * status.f_frsize
        if free_bytes < self._max_bytes + RESERVE_BYTES:
            raise self._full(free_bytes)
        try:
            self._fd = _nameless_file(directory)
        except OSError as error:
            raise ModelLoadError(
                f"cannot make a file in {directory}: {error.strerror}; make it writable, or choose another",
                source="cli",
            ) from error
        self.nbytes = 0

    @property
    def path(self) -> Path:
        """Opens the file anew, in any mode, while this object is open."""
        return Path(f"/proc/self/fd/{self._fd}")

    def fill(self, *, is_time_up: Callable[[], bool], on_progress: Callable[[int, int], None]) -> None:
        """Write until it is full or the time is up, at least `MIN_BYTES`; then to the disk and out of memory.

        `on_progress(done, total)` in bytes. Raises: CapacityError when the disk is full after all.
        """
        try:
            while self.nbytes < self._max_bytes and (self.nbytes < MIN_BYTES or not is_time_up()):
                self.nbytes += os.pwrite(self._fd, os.urandom(MIB), self.nbytes)
                if self.nbytes % GRAIN_BYTES == 0:
                    os.fdatasync(self._fd)
                    on_progress(self.nbytes, self._max_bytes)
            self.nbytes -= self.nbytes % GRAIN_BYTES
            os.ftruncate(self._fd, self.nbytes)
            os.fsync(self._fd)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(self.nbytes) from error
            raise ModelLoadError(
                f"cannot write to {self.directory}: {error.strerror}; check the disk", source="cli"
            ) from error
        self.forget()

    def forget(self) -> None:
        """Put the file out of the page cache."""
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Give the room back. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _full(self, free_bytes: int) -> CapacityError:
        return CapacityError(
            f"the disk of {self.directory} is too full to be measured: {free_bytes} bytes are free, "
            f"{self._max_bytes + RESERVE_BYTES} are needed; free some space, or take a smaller --size",
            source="cli",
        )


def _nameless_file(directory: Path) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    fd, name = tempfile.mkstemp(prefix=".sllm-tune-", dir=directory)
    Path(name).unlink()
    return fd
