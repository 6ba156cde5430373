# SPDX-License-Identifier: Apache-2.0
"""Measures with how many connections, and in ranges of what size, an origin gives its bytes fastest.

Reads as a fetch does, through `sources`. Knows no disk and no profile.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from serverlessllm.arena.scratch import scratch
from serverlessllm.config import MIB
from serverlessllm.loader.tune.trial import TOLERANCE
from serverlessllm.sources.base import Source

CONNECTIONS: Final = (1, 2, 4, 8, 16)
RANGE_BYTES: Final = (2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB)
FETCH_RANGE_BYTES: Final = 8 * MIB
"""What a fetch asks for: the format's grain of verification. Other sizes are measured to see what that costs."""


@dataclass(frozen=True, slots=True)
class RangeResult:
    """What `num_connections` gave, each asking for `range_bytes` at once."""

    num_connections: int
    range_bytes: int
    nbytes: int
    bytes_per_s: float


def choose_range(results: list[RangeResult]) -> RangeResult:
    """The fastest; among those within `TOLERANCE` of it the fewest connections, then the smallest ranges. Pure.

    Raises: ValueError for no results.
    """
    least = (1 - TOLERANCE) * max(result.bytes_per_s for result in results)
    good = [result for result in results if result.bytes_per_s >= least]
    return min(good, key=lambda result: (result.num_connections, result.range_bytes))


def choose_connections(results: list[RangeResult]) -> RangeResult:
    """The best way among those in which a fetch can read. Raises: ValueError when none of them was measured."""
    return choose_range([result for result in results if result.range_bytes == FETCH_RANGE_BYTES])


def tune_ranges(
    open_source: Callable[[], Source], *, seconds: float, on_step: Callable[[str, float], None]
) -> list[RangeResult]:
    """Every number of connections with every size, about `seconds` in all; `on_step` as `tuner.OnStep`.

    Raises: as `Source.read_into`.
    """
    trials = list(itertools.product(CONNECTIONS, RANGE_BYTES))
    found: list[RangeResult] = []
    with scratch(max(CONNECTIONS) * max(RANGE_BYTES), huge=True) as memory:
        for number, (connections, range_bytes) in enumerate(trials):
            on_step(f"{connections} × {range_bytes >> 20} MiB ranges", number / len(trials))
            source = open_source()
            try:
                found.append(_run_trial(source, connections, range_bytes, memory.view, seconds / len(trials)))
            finally:
                source.close()
    return found


def _run_trial(
    source: Source, connections: int, range_bytes: int, target: memoryview, seconds: float
) -> RangeResult:
    """One connection each is opened before the clock starts, as a fetch's are kept from range to range."""
    size = source.size
    num_ranges = max(1, size // range_bytes)
    numbers = itertools.count()
    lock = threading.Lock()
    barrier = threading.Barrier(connections + 1)

    def work(worker: int) -> int:
        done = 0
        with target[worker * range_bytes : (worker + 1) * range_bytes] as view:
            try:
                source.read_into(0, view[:1])
            except BaseException:
                barrier.abort()
                raise
            barrier.wait()
            deadline_s = time.perf_counter() + seconds
            while time.perf_counter() < deadline_s:
                with lock:
                    number = next(numbers)
                done += source.read_into(number % num_ranges * range_bytes, view)
        return done

    with ThreadPoolExecutor(connections, thread_name_prefix="tune") as threads:
        futures = [threads.submit(work, worker) for worker in range(connections)]
        try:
            barrier.wait()
        except threading.BrokenBarrierError:
            raise next(error for future in futures if (error := future.exception())) from None
        started_s = time.perf_counter()
        nbytes = sum(future.result() for future in futures)
        elapsed_s = time.perf_counter() - started_s
    return RangeResult(connections, range_bytes, nbytes, nbytes / elapsed_s)
