# SPDX-License-Identifier: Apache-2.0
"""Carries one trial out: some threads read a file into memory, in turn, until it is read or the time is up.

Reads as a load does, by `sources.file.FileSource`. Decides nothing.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from serverlessllm.arena import libc
from serverlessllm.arena.mapping import PAGE_BYTES
from serverlessllm.loader.tune.probe_file import ProbeFile
from serverlessllm.loader.tune.trial import Trial, TrialResult
from serverlessllm.sources.file import FileSource

Read = Callable[[int, memoryview], int]
"""(offset in the file, target) → bytes read."""
DIRECT_IO: Final = {"direct": "always", "buffered": "never"}


def run_trial(
    file: ProbeFile, trial: Trial, target: memoryview, *, seconds: float, first: int = 0
) -> TrialResult:
    """Read from offset `first` on, wrapping around, each byte at most once, and about `seconds` at most.

    `target` is as long as the file, on pages of `trial.page_bytes`. Raises: ConfigError where O_DIRECT is refused;
    ModelLoadError for I/O errors.
    """
    if trial.method != "direct":
        file.forget()
    with _reader(file, trial) as read:
        offsets = _Offsets(file.nbytes, trial.read_bytes, first)
        cpu_s, started_s = _cpu_s(), time.perf_counter()
        deadline_s = started_s + seconds

        def work() -> int:
            done = 0
            while time.perf_counter() < deadline_s and (offset := offsets.take()) is not None:
                with target[offset : offset + trial.read_bytes] as part:
                    done += read(offset, part)
            return done

        with ThreadPoolExecutor(trial.num_threads, thread_name_prefix="tune") as threads:
            futures = [threads.submit(work) for _ in range(trial.num_threads)]
            nbytes = sum(future.result() for future in futures)
        elapsed_s = time.perf_counter() - started_s
    return TrialResult(trial, nbytes, nbytes / elapsed_s, (_cpu_s() - cpu_s) / max(nbytes, 1) * 1e9)


class _Offsets:
    """Hands out each read once, to any thread."""

    def __init__(self, nbytes: int, read_bytes: int, first: int) -> None:
        num_reads = -(-nbytes // read_bytes)
        start = first // read_bytes
        self._left: Iterator[int] = iter(
            [(start + number) % num_reads * read_bytes for number in range(num_reads)]
        )
        self._lock = threading.Lock()

    def take(self) -> int | None:
        with self._lock:
            return next(self._left, None)


@contextmanager
def _reader(file: ProbeFile, trial: Trial) -> Iterator[Read]:
    if trial.method == "populate":
        with _mapped(file) as read:
            yield read
        return
    with FileSource(file.path, direct_io=DIRECT_IO[trial.method]) as source:
        yield source.read_into


@contextmanager
def _mapped(file: ProbeFile) -> Iterator[Read]:
    """The file mapped; a read brings its pages in at once and copies them."""
    fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        address = libc.mmap(0, file.nbytes, libc.PROT_READ, libc.MAP_SHARED, fd)
    finally:
        os.close(fd)

    def read(offset: int, target: memoryview) -> int:
        libc.madvise(address + offset, -(-len(target) // PAGE_BYTES) * PAGE_BYTES, libc.MADV_POPULATE_READ)
        libc.copy(target, address + offset)
        return len(target)

    try:
        yield read
    finally:
        libc.munmap(address, file.nbytes)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
