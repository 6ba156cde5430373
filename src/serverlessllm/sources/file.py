# SPDX-License-Identifier: Apache-2.0
"""A local file as a source of bytes, read past the page cache where the file system allows.

Knows offsets and one file; not artifacts, chunks or digests. `O_DIRECT` because a copy through the page cache
costs a second pass over memory and evicts what others need.
"""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serverlessllm.errors import CapacityError, ConfigError, CorruptDataError, ModelLoadError
from serverlessllm.types import Tier

DIRECT_ALIGN_BYTES: Final = 4096
"""Grain of offset, length and address for O_DIRECT: what every common device accepts."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Equal identities mean the same bytes, as far as the file system tells."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """Of a file that was looked at, open or not."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class FileSource:
    """One file, open for reading. `read_into` may be called from several threads at once.

    `direct_io`: auto falls back to buffered reads where the file system refuses O_DIRECT, always makes that an
    error, never reads through the page cache.
    """

    tier: Tier = "nvme"

    def __init__(self, path: Path, *, direct_io: str = "auto") -> None:
        """Raises: CorruptDataError when the file is missing; ModelLoadError when it cannot be opened;
        ConfigError when `always` is not possible here.
        """
        self.path = path
        self.name = str(path)
        self._direct_io = direct_io
        self._fd = self._open(os.O_RDONLY)
        self._direct_fd = -1
        if direct_io != "never":
            try:
                self._direct_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            except OSError as error:
                self._refuse_direct(error)

    def _open(self, flags: int) -> int:
        try:
            return os.open(self.path, flags | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise CorruptDataError(
                f"{self.path} is missing; convert or fetch the model again",
                param=self.path.name,
                source="agent",
            ) from error
        except OSError as error:
            raise self._failure(error, "open") from error

    def _failure(self, error: OSError, action: str) -> ModelLoadError:
        return ModelLoadError(
            f"cannot {action} {self.path}: {error.strerror}; check the disk and the file's permissions",
            source="agent",
        )

    def _refuse_direct(self, error: OSError) -> None:
        """O_DIRECT is not to be had; from here on read buffered, unless the configuration forbids it."""
        if error.errno != errno.EINVAL:
            self.close()
            raise self._failure(error, "open") from error
        if self._direct_io == "always":
            self.close()
            raise ConfigError(
                f"loader.direct_io: always, but the file system of {self.path} refuses O_DIRECT; set it to auto",
                param="loader.direct_io",
                source="agent",
            ) from error
        direct_fd, self._direct_fd = self._direct_fd, -1
        if direct_fd >= 0:
            os.close(direct_fd)

    @property
    def is_direct(self) -> bool:
        """Whether aligned reads bypass the page cache."""
        return self._direct_fd >= 0

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._fd).st_size

    @property
    def identity(self) -> FileIdentity:
        """Which file this is, and in which state."""
        return FileIdentity.of(os.fstat(self._fd))

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill the writable byte `view` from `offset`; returns the bytes read, fewer only at the file's end.

        Offset, length and address on the 4 KiB grid are read with O_DIRECT, anything else through the page
        cache. Short reads are continued. Raises: ModelLoadError naming file and offset for an I/O error;
        CapacityError when the target is a mapping that its file system has no memory for.
        """
        done = 0
        while done < len(view):
            with view[done:] as rest:
                count = self._read_some(offset + done, rest)
            if count == 0:
                break
            done += count
        return done

    def _read_some(self, offset: int, view: memoryview) -> int:
        try:
            if self.is_direct and _is_aligned(offset, view):
                return self._read_direct(offset, view)
            return os.preadv(self._fd, [view], offset)
        except OSError as error:
            if error.errno == errno.EFAULT:
                raise CapacityError(
                    f"no memory for {len(view)} bytes of {self.path}: the target's tmpfs is full; free some memory "
                    "or lower arena.budget_bytes",
                    source="agent",
                ) from error
            raise self._failure(error, f"read {len(view)} bytes at offset {offset} of") from error

    def _read_direct(self, offset: int, view: memoryview) -> int:
        try:
            return os.preadv(self._direct_fd, [view], offset)
        except OSError as error:
            if error.errno != errno.EINVAL or self._direct_io == "always":
                raise
        # The file system opened with O_DIRECT, but wants a coarser grid than ours, or cannot after all.
        return os.preadv(self._fd, [view], offset)

    def close(self) -> None:
        """Close the descriptors; no read may be in progress. Idempotent."""
        for fd in (self._fd, self._direct_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._direct_fd = -1

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_aligned(offset: int, view: memoryview) -> bool:
    if offset % DIRECT_ALIGN_BYTES or len(view) % DIRECT_ALIGN_BYTES:
        return False
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    return address % DIRECT_ALIGN_BYTES == 0
