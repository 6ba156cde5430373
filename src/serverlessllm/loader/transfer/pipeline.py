# SPDX-License-Identifier: Apache-2.0
"""The reads of one load that this node's own media serve: into the region, checked where asked, in plan order.

Memory: none of its own. The pool's threads hold one read each, and their target is the region itself; nothing is
queued, so a slow medium slows only its readers. Knows no event loop, no arena, no origin. Once `run` has returned
or raised, nothing writes to the region or keeps it mapped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from serverlessllm.arena.mapping import touch_view
from serverlessllm.checkpoint.spec import CHUNK_BYTES
from serverlessllm.errors import CorruptDataError, ModelLoadError
from serverlessllm.loader.plan import ChunkRead
from serverlessllm.loader.transfer.arrivals import Arrivals
from serverlessllm.loader.transfer.read_pool import ReadPool, Work


class ReadSource(Protocol):
    """`sources.file.FileSource` and its kin; `read_into` is called by several threads at once."""

    @property
    def size(self) -> int:
        """Bytes that can be read."""

    @property
    def identity(self) -> object:
        """Equal identities mean the same bytes, as far as the medium tells."""

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill `view` from `offset`; returns the bytes read, fewer only at the end of the source."""

    def close(self) -> None:
        """Let go of it; no read is in progress."""


class _StoppedError(Exception):
    """Nobody wants the rest of this read."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A read whose bytes are wrong, missing or cannot be read here; another source may have them."""

    read: ChunkRead
    error: CorruptDataError | ModelLoadError


class ReadLane:
    """One run of some reads; a `read_pool.Lane`."""

    def __init__(
        self,
        reads: Sequence[ChunkRead],
        sources: Mapping[str, ReadSource],
        region: memoryview,
        arrivals: Arrivals,
        *,
        step_bytes: int,
        verify_files: Container[str] = (),
        goes_on: bool = False,
    ) -> None:
        """`region` is the writable, page-rounded target; `sources` has one entry per file.

        Reads go to the source in steps of `step_bytes`. Chunks of `verify_files` are checked against their
        digests. `goes_on`: after a failure the other reads are still carried out.
        """
        self._sources = sources
        self._region = region[:]
        self._arrivals = arrivals
        self._step_bytes = step_bytes
        self._verify_files = verify_files
        self._goes_on = goes_on
        self._next: Iterator[ChunkRead] = iter(reads)
        self._left = len(reads)
        self._in_flight = 0
        self._changed = threading.Condition()
        self._is_stopped = False
        self._failures: list[Failure] = []
        self._fatal: Exception | None = None
        self.cpu_s = 0.0
        """CPU time of all reads: what exceeds `hash_s` is system calls and first touch."""
        self.hash_s = 0.0
        """CPU time that went into checking."""
        self.done_bytes = 0
        self.verified_bytes = 0

    def stop(self) -> None:
        """Start no further read. Callable from any thread, at any time, also before `run`."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def run(self, pool: ReadPool, weight: float) -> list[Failure]:
        """Read everything, or until stopped; blocks. Returns the failures, in no order.

        Raises: what a source raises beside them, CapacityError for one.
        """
        pool.add(self, weight)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over)
        finally:
            pool.remove(self)
            with self._changed:
                self._is_stopped = True
                self._changed.wait_for(lambda: self._in_flight == 0)
            self._region.release()
        if self._fatal is not None:
            raise self._fatal
        return self._failures

    @property
    def _is_over(self) -> bool:
        return self._in_flight == 0 and (self._left == 0 or self._is_stopped)

    def take(self) -> Work | None:
        """See `Lane.take`."""
        with self._changed:
            read = None if self._is_stopped else next(self._next, None)
            if read is None:
                return None
            self._left -= 1
            self._in_flight += 1
        return read.nbytes, lambda: self._carry_out(read)

    def _carry_out(self, read: ChunkRead) -> None:
        started_s = time.thread_time()
        failure: Failure | None = None
        fatal: Exception | None = None
        is_done, hash_s = True, 0.0
        try:
            hash_s = self._place(read)
            self._arrivals.note(read.shard, read.nbytes)
        except _StoppedError:
            is_done = False
        except (CorruptDataError, ModelLoadError) as error:
            is_done = False
            failure = Failure(read, error)
        except Exception as error:  # the end of this read: `run` raises it
            is_done = False
            fatal = error
        with self._changed:
            self.cpu_s += time.thread_time() - started_s
            self.hash_s += hash_s
            if failure is not None:
                self._failures.append(failure)
            if is_done:
                self.done_bytes += read.nbytes
                self.verified_bytes += read.nbytes if read.file in self._verify_files else 0
            self._fatal = self._fatal or fatal
            self._is_stopped |= fatal is not None or (failure is not None and not self._goes_on)
            self._in_flight -= 1
            self._changed.notify_all()

    def _place(self, read: ChunkRead) -> float:
        """Fill the read's range of the region and check it; returns the CPU seconds that checking took."""
        with self._region[read.region_offset : read.region_offset + read.padded_bytes] as target:
            # Pages that O_DIRECT itself faults in come one by one. Into fresh memory 2.9 GB took 8.2 s that way and
            # 2.3 s this way, in one pair of runs; later pairs, on a busy machine, went 3.3 → 2.0 and 2.8 → 4.0 s.
            touch_view(target)
            self._fill(read, target)
            target[read.nbytes :] = bytes(len(target) - read.nbytes)
            if read.file not in self._verify_files:
                return 0.0
            started_s = time.thread_time()
            check_chunks(read, target)
            return time.thread_time() - started_s

    def _fill(self, read: ChunkRead, target: memoryview) -> None:
        for start in range(0, len(target), self._step_bytes):
            if self._is_stopped:
                raise _StoppedError
            with target[start : start + self._step_bytes] as step:
                count = self._sources[read.file].read_into(read.file_offset + start, step)
                if start + count < min(start + len(step), read.nbytes):
                    raise CorruptDataError(
                        f"{read.file} is truncated: it ends at byte {read.file_offset + start + count}; "
                        "convert or fetch the model again",
                        param=read.file,
                        source="agent",
                    )


def check_chunks(read: ChunkRead, data: memoryview) -> None:
    """Compare what was read with the digests of its chunks; `data` may be longer than the read.

    Raises: CorruptDataError naming file and bytes of the first chunk that differs.
    """
    for number, digest in enumerate(read.digests):
        start = number * CHUNK_BYTES
        end = min(start + CHUNK_BYTES, read.nbytes)
        with data[start:end] as chunk:
            if blake3(chunk).hexdigest() != digest:
                raise CorruptDataError(
                    f"{read.file}: bytes {read.file_offset + start} to {read.file_offset + end} differ from "
                    "their digest; convert or fetch the model again",
                    param=read.file,
                    source="agent",
                )
