# SPDX-License-Identifier: Apache-2.0
"""A bound on what loads read from the node's disk: for disks that others share, and for trying slower ones.

All loads of a node share one pace; pieces are small, so that they take turns. Knows files, not artifacts.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

from serverlessllm.clock import Clock
from serverlessllm.sources.file import FileSource

PIECE_BYTES: Final = 256 << 10


class DiskPace:
    """`take` from any thread; returns when that many bytes may have been read at `bytes_per_s`."""

    def __init__(self, bytes_per_s: float, clock: Clock) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._free_s = 0.0

    def take(self, nbytes: int) -> None:
        """Wait for our share of the disk's time."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            self._free_s = max(now_s, self._free_s) + nbytes / self._bytes_per_s
            wait_s = self._free_s - now_s
        time.sleep(wait_s)


class PacedFileSource(FileSource):
    """A file on the node's disk, read no faster than the node's pace."""

    def __init__(self, path: Path, pace: DiskPace, *, direct_io: str = "auto") -> None:
        """Raises as `FileSource`."""
        super().__init__(path, direct_io=direct_io)
        self._pace = pace

    def read_into(self, offset: int, view: memoryview) -> int:
        """See `FileSource.read_into`."""
        done = 0
        while done < len(view):
            with view[done : done + PIECE_BYTES] as piece:
                count = super().read_into(offset + done, piece)
                self._pace.take(count)
            done += count
            if count < PIECE_BYTES:
                break
        return done
