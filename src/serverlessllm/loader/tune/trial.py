# SPDX-License-Identifier: Apache-2.0
"""Which ways to read a disk are tried, and which of them is the best. Pure: measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from serverlessllm.config import MIB

Method = Literal["direct", "buffered", "populate"]
"""direct: O_DIRECT into the target · buffered: read through the page cache · populate: the file mapped,
MADV_POPULATE_READ, copied to the target. A load does one of the first two: a mapping of a file that somebody cuts
short ends the process (SIGBUS)."""

LOADABLE: Final[tuple[Method, ...]] = ("direct", "buffered")
THREADS: Final = (1, 2, 4, 8)
READ_BYTES: Final = (1 * MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB, 32 * MIB)
USUAL_THREADS: Final = 4
USUAL_READ_BYTES: Final = 8 * MIB
TOLERANCE: Final = 0.03
"""Rates this near to the best are as good: what suits loads better is then taken."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to read. `page_bytes` are those of the memory that is read into."""

    method: Method
    page_bytes: int
    num_threads: int
    read_bytes: int

    @property
    def in_flight_bytes(self) -> int:
        """What is asked of the disk at once."""
        return self.num_threads * self.read_bytes


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What one way gave: `cpu_s_per_gb` are seconds of this process's CPU time per 10⁹ bytes."""

    trial: Trial
    nbytes: int
    bytes_per_s: float
    cpu_s_per_gb: float


def method_trials(page_bytes: Sequence[int]) -> list[Trial]:
    """Every method into every kind of memory, as loads read where nothing was measured."""
    methods: tuple[Method, ...] = ("direct", "buffered", "populate")
    return [
        Trial(method, pages, USUAL_THREADS, USUAL_READ_BYTES) for pages in page_bytes for method in methods
    ]


def grid_trials(method: Method, page_bytes: int) -> list[Trial]:
    """Every number of threads with every size of read."""
    return [Trial(method, page_bytes, threads, size) for threads in THREADS for size in READ_BYTES]


def fastest_of_each(results: Iterable[TrialResult]) -> list[TrialResult]:
    """One result per trial, in the order of the first ones: who disturbs a measurement only makes it slower."""
    best: dict[Trial, TrialResult] = {}
    for result in results:
        known = best.get(result.trial)
        if known is None or result.bytes_per_s > known.bytes_per_s:
            best[result.trial] = result
    return list(best.values())


def choose_method(results: Sequence[TrialResult], page_bytes: int) -> Method:
    """The faster of the ways in which a load can read into such memory. Raises: ValueError for no result."""
    return max(_loadable(results, page_bytes), key=lambda result: result.bytes_per_s).trial.method


def choose_best(results: Sequence[TrialResult], page_bytes: int) -> TrialResult:
    """The fastest way into such memory. Among those within `TOLERANCE` of it one with `USUAL_THREADS` or more is
    taken, because a load's threads also check bytes and touch fresh pages; then the one with the least in flight.

    Raises: ValueError when none was measured.
    """
    candidates = _loadable(results, page_bytes)
    least = (1 - TOLERANCE) * max(result.bytes_per_s for result in candidates)
    good = [result for result in candidates if result.bytes_per_s >= least]
    return min(
        good,
        key=lambda result: (
            result.trial.num_threads < USUAL_THREADS,
            result.trial.in_flight_bytes,
            result.trial.num_threads,
        ),
    )


def possible_bytes_per_s(results: Sequence[TrialResult]) -> float:
    """The most that a load could have got from the disk, by any way and into any memory that was tried."""
    return max(result.bytes_per_s for result in results if result.trial.method in LOADABLE)


def _loadable(results: Sequence[TrialResult], page_bytes: int) -> list[TrialResult]:
    return [
        result
        for result in results
        if result.trial.method in LOADABLE and result.trial.page_bytes == page_bytes
    ]
