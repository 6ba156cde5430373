# SPDX-License-Identifier: Apache-2.0
"""The hardware's limit for reading a file: O_DIRECT into huge pages that were touched before, nothing else.

4 threads of 8 MiB reads saturated the disks that we measured; a buffer of 4 KiB pages would show the kernel's
splitting of requests instead of the disk.
"""

from __future__ import annotations

import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHUNK_BYTES = 8 << 20
NUM_THREADS = 4
MADV_HUGEPAGE = 14


class DiskLimit:
    """A reusable, touched buffer for one file; `measure_s` reads the whole file once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._nbytes = path.stat().st_size
        size = -(-self._nbytes // CHUNK_BYTES) * CHUNK_BYTES
        self._buffer = mmap.mmap(-1, size + (2 << 20))
        self._buffer.madvise(MADV_HUGEPAGE)
        self._view = memoryview(self._buffer)
        for at in range(0, size, 4096):
            self._buffer[at] = 1

    def measure_s(self) -> float:
        """Seconds to read the file once."""
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECT)
        try:
            offsets = range(0, self._nbytes, CHUNK_BYTES)
            with ThreadPoolExecutor(NUM_THREADS) as pool:
                started = time.perf_counter()
                done = sum(
                    pool.map(lambda at: os.preadv(fd, [self._view[at : at + CHUNK_BYTES]], at), offsets)
                )
                elapsed = time.perf_counter() - started
        finally:
            os.close(fd)
        if done != self._nbytes:
            raise OSError(f"read {done} of {self._nbytes} bytes of {self._path}")
        return elapsed
