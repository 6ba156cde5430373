# SPDX-License-Identifier: Apache-2.0
"""The hardware's limit for reading a file: O_DIRECT into huge pages that were touched before, nothing else.

Pages of 4 KiB, and anonymous huge pages, would show the kernel's splitting of requests instead of the disk: the
target is a tmpfs with huge pages. Where none may be mounted, that is said, and the figure understates the limit.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from serverlessllm.arena.mapping import HUGE_PAGE_BYTES
from serverlessllm.arena.scratch import scratch

READ_BYTES = 8 << 20
NUM_THREADS = 4


class DiskLimit:
    """A reusable, touched buffer for one file; `measure_s` reads the whole file once."""

    def __init__(self, path: Path, *, num_threads: int = NUM_THREADS, read_bytes: int = READ_BYTES) -> None:
        self._path = path
        self._nbytes = path.stat().st_size
        self._num_threads = num_threads
        self._read_bytes = read_bytes
        self._memory = ExitStack()
        memory = self._memory.enter_context(scratch(self._nbytes, huge=True))
        self.page_bytes = memory.page_bytes
        if memory.page_bytes != HUGE_PAGE_BYTES:
            print("no huge pages (not root?): the limit is measured into 4 KiB pages", file=sys.stderr)
        self._view = memory.view

    def measure_s(self) -> float:
        """Seconds to read the file once."""
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECT)

        def read(at: int) -> int:
            with self._view[at : at + self._read_bytes] as target:
                return os.preadv(fd, [target], at)

        try:
            with ThreadPoolExecutor(self._num_threads) as pool:
                started = time.perf_counter()
                done = sum(pool.map(read, range(0, self._nbytes, self._read_bytes)))
                elapsed = time.perf_counter() - started
        finally:
            os.close(fd)
        if done != self._nbytes:
            raise OSError(f"read {done} of {self._nbytes} bytes of {self._path}")
        return elapsed
