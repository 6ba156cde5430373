# SPDX-License-Identifier: Apache-2.0
"""Carry out a plan: a few threads, each reading its next chunk straight into the region.

Memory: none of its own; at most `num_threads` reads of one chunk are in flight, and their target is the arena.
Knows no event loop, no arena, no artifact. Once `run` has returned or raised, nothing writes to the region or
keeps it mapped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from serverlessllm.errors import CorruptDataError
from serverlessllm.loader.plan import ChunkRead, LoadPlan


class ReadSource(Protocol):
    """`sources.file.FileSource` and its kin; `read_into` is called by several threads at once."""

    @property
    def size(self) -> int:
        """Bytes that can be read."""

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill `view` from `offset`; returns the bytes read, fewer only at the end of the source."""

    def close(self) -> None:
        """Let go of it; no read is in progress."""


OnProgress = Callable[[int, int], None]
"""(bytes done, shards ready): called from a reading thread after each chunk, never by two at once."""


class LoadPipeline:
    """One run of one plan. `ready` shards are counted in order: shard i only when 0 … i are whole."""

    def __init__(
        self,
        plan: LoadPlan,
        sources: Mapping[str, ReadSource],
        region: memoryview,
        *,
        num_threads: int,
        on_progress: OnProgress,
    ) -> None:
        """`region` is the writable, page-rounded target; `sources` has one entry per file of the plan."""
        self._plan = plan
        self._sources = sources
        self._region = region[:]
        self._num_threads = max(1, min(num_threads, len(plan.chunks)))
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._next = iter(plan.chunks)
        self._missing = [0] * len(plan.shard_ids)
        for chunk in plan.chunks:
            self._missing[chunk.shard] += 1
        self._done_bytes = 0
        self._num_ready = 0
        self._error: Exception | None = None
        self.cpu_s = 0.0

    def stop(self) -> None:
        """Start no further read; `run` then returns False. Callable from any thread, at any time."""
        self._stop.set()

    def run(self) -> bool:
        """Read everything; blocks. True when all is read, False when stopped before.

        `cpu_s` then holds the CPU time that the threads used: high values mean that touching fresh pages, not
        the device, set the pace. Raises: CorruptDataError naming a file that ends early; what a source raises.
        """
        running: list[threading.Thread] = []
        try:
            for number in range(1, self._num_threads):
                thread = threading.Thread(target=self._work, name=f"load-{number}")
                thread.start()
                running.append(thread)
            self._work()
        except RuntimeError:  # the system gives no more threads
            self._stop.set()
            raise
        finally:
            for thread in running:
                thread.join()
            self._region.release()
        if self._error is not None:
            raise self._error
        return self._done_bytes == self._plan.total_bytes

    def _work(self) -> None:
        started_s = time.thread_time()
        try:
            while not self._stop.is_set():
                with self._lock:
                    chunk = next(self._next, None)
                if chunk is None:
                    break
                self._read(chunk)
                with self._lock:
                    self._finish(chunk)
        except Exception as error:  # a thread's end: `run` raises it
            with self._lock:
                self._error = self._error or error
            self._stop.set()
        finally:
            with self._lock:
                self.cpu_s += time.thread_time() - started_s

    def _read(self, chunk: ChunkRead) -> None:
        end = chunk.region_offset + chunk.padded_bytes
        with self._region[chunk.region_offset : end] as target:
            count = self._sources[chunk.file].read_into(chunk.file_offset, target)
            if count < chunk.nbytes:
                raise CorruptDataError(
                    f"{chunk.file} is truncated: it ends at byte {chunk.file_offset + count} of "
                    f"{self._plan.file_bytes[chunk.file]}; convert or fetch the model again",
                    param=chunk.file,
                    source="agent",
                )
            target[count:] = bytes(len(target) - count)

    def _finish(self, chunk: ChunkRead) -> None:
        self._done_bytes += chunk.nbytes
        self._missing[chunk.shard] -= 1
        while self._num_ready < len(self._missing) and self._missing[self._num_ready] == 0:
            self._num_ready += 1
        self._on_progress(self._done_bytes, self._num_ready)
