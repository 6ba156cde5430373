# SPDX-License-Identifier: Apache-2.0
"""How fast a directory's disk reads past the page cache, and whether it can (O_DIRECT).

Writes a file of its own, reads it once, removes it. Knows nothing of artifacts.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROBE_BYTES: Final = 128 << 20
BLOCK_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class DiskSpeed:
    """`is_direct` False: the file system refuses O_DIRECT, so the page cache is in the way."""

    bytes_per_s: float
    is_direct: bool


def measure(directory: Path, *, num_threads: int) -> DiskSpeed:
    """Read PROBE_BYTES with `num_threads` threads, BLOCK_BYTES at a time. Raises OSError when it cannot write."""
    fd, name = tempfile.mkstemp(prefix=".sllm-doctor-", dir=directory)
    try:
        block = os.urandom(1 << 20)
        for _ in range(PROBE_BYTES // len(block)):
            os.write(fd, block)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        read_fd, is_direct = _open_direct(name)
        try:
            seconds = _read_s(read_fd, num_threads)
        finally:
            os.close(read_fd)
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108 - the name came as text
    return DiskSpeed(PROBE_BYTES / seconds, is_direct)


def _open_direct(name: str) -> tuple[int, bool]:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECT), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(name, os.O_RDONLY), False


def _read_s(fd: int, num_threads: int) -> float:
    """Seconds to read the whole file into memory that was touched before."""
    buffers = [mmap.mmap(-1, BLOCK_BYTES) for _ in range(num_threads)]
    for buffer in buffers:
        buffer.write(bytes(BLOCK_BYTES))
    num_blocks = PROBE_BYTES // BLOCK_BYTES

    def read_every(first: int) -> None:
        for number in range(first, num_blocks, num_threads):
            os.preadv(fd, [buffers[first]], number * BLOCK_BYTES)

    started_s = time.perf_counter()
    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(read_every, range(num_threads)))
    return time.perf_counter() - started_s
