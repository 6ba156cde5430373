# SPDX-License-Identifier: Apache-2.0
"""One load's blocking work: local reads and a fetch at the same time, then a second try for what was wrong.

Knows the plan and the sources; not the arena's room, the event loop or who waits. Once `run` has returned or raised,
nothing writes to the region.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Protocol

from serverlessllm.loader.disk.local_copy import LocalCopy
from serverlessllm.loader.disk.trust import DiskTrust
from serverlessllm.loader.plan import ChunkRead, LoadPlan
from serverlessllm.loader.report import SourceShare
from serverlessllm.loader.transfer.arrivals import Arrivals, OnProgress
from serverlessllm.loader.transfer.pipeline import Failure, ReadLane
from serverlessllm.loader.transfer.read_pool import ReadPool


class Fetch(Protocol):
    """Brings chunks from origins into the region; what arrived before a stop is kept for the next load."""

    @property
    def shares(self) -> Sequence[SourceShare]:
        """What each origin gave so far."""

    def run(self, reads: Sequence[ChunkRead], region: memoryview, arrivals: Arrivals) -> None:
        """Fetch and verify `reads`; blocks. Returns early when stopped. May be called again."""

    def stop(self) -> None:
        """End `run` soon; callable from any thread, at any time."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a load reads the disk: `weight` is its share among loads, `verify_files` are checked on the way."""

    step_bytes: int
    weight: float
    verify_files: Container[str]


class LoadRun:
    """Use once. `failures` are the local reads that had to be fetched instead, or that nobody could replace."""

    def __init__(
        self,
        plan: LoadPlan,
        copy: LocalCopy,
        fetch: Fetch | None,
        region: memoryview,
        *,
        settings: RunSettings,
        on_progress: OnProgress,
    ) -> None:
        """`region` is the writable, page-rounded target; without `fetch` the first wrong chunk ends the load."""
        self._plan = plan
        self._copy = copy
        self._fetch = fetch
        self._region = region[:]
        self._settings = settings
        self._arrivals = Arrivals(plan, on_progress)
        self._lane = ReadLane(
            plan.of_tier("nvme"),
            copy.sources,
            self._region,
            self._arrivals,
            step_bytes=settings.step_bytes,
            verify_files=settings.verify_files,
            goes_on=fetch is not None,
        )
        # Taken before the first byte is read: a file that changes meanwhile counts as another one.
        self._identities = {file: source.identity for file, source in copy.sources.items()}
        self._checked_files = {
            file for file in copy.sources if file in settings.verify_files and file not in copy.problems
        }
        self._is_stopped = threading.Event()
        self.failures: list[Failure] = []
        self.local_s = 0.0

    @property
    def cpu_s(self) -> float:
        """CPU time of local reads, checking included."""
        return self._lane.cpu_s

    @property
    def hash_s(self) -> float:
        """CPU time that checking local reads took."""
        return self._lane.hash_s

    @property
    def local_bytes(self) -> int:
        """Bytes that local reads brought."""
        return self._lane.done_bytes

    @property
    def verified_bytes(self) -> int:
        """Bytes of local reads that were compared with their digests."""
        return self._lane.verified_bytes

    def note_trust(self, trust: DiskTrust) -> None:
        """Tell which files were read whole and right, and which were wrong."""
        wrong = {failure.read.file for failure in self.failures}
        for file in wrong:
            trust.forget(self._copy.paths[file])
        right = self._checked_files - wrong if self._arrivals.is_complete else set()
        trust.note_right({self._copy.paths[file]: self._identities[file] for file in right})

    def stop(self) -> None:
        """Make `run` return False soon. Callable from any thread, at any time."""
        self._is_stopped.set()
        self._lane.stop()
        if self._fetch is not None:
            self._fetch.stop()

    def run(self, pool: ReadPool) -> bool:
        """Bring everything; blocks. True when all is there, False when stopped before.

        Raises: what a source raises; without a fetch CorruptDataError or ModelLoadError for bytes that are wrong
        here, with one what the fetch says of those it cannot replace either.
        """
        try:
            self._read(pool)
            if self.failures and not self._is_stopped.is_set():
                if self._fetch is None:
                    raise self.failures[0].error
                self._fetch.run([failure.read for failure in self.failures], self._region, self._arrivals)
        finally:
            self._region.release()
        return self._arrivals.is_complete

    def _read(self, pool: ReadPool) -> None:
        remote = self._plan.of_tier("remote")
        fetching = None
        if remote and self._fetch is not None:
            fetch = self._fetch
            fetching = _Aside(lambda: fetch.run(remote, self._region, self._arrivals), self._lane.stop)
        started_s = time.monotonic()
        try:
            self.failures = self._lane.run(pool, self._settings.weight)
        except BaseException:
            if fetching is not None and self._fetch is not None:
                self._fetch.stop()
            raise
        finally:
            self.local_s = time.monotonic() - started_s
            if fetching is not None:
                fetching.wait()
        if fetching is not None:
            fetching.check()


class _Aside:
    """Work in a thread of its own; `on_error` is called from it when the work raises."""

    def __init__(self, work: Callable[[], None], on_error: Callable[[], None]) -> None:
        self._work = work
        self._on_error = on_error
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # the thread's end: `check` raises it
            self._error = error
            self._on_error()

    def wait(self) -> None:
        """Until the work has ended."""
        self._thread.join()

    def check(self) -> None:
        """Raise what the work raised."""
        if self._error is not None:
            raise self._error
