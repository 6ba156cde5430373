# SPDX-License-Identifier: Apache-2.0
"""Measures how a directory's disk is read fastest, within a given time.

First every method into every kind of memory, then threads and sizes of the better method, all of it twice: who
disturbs a measurement only makes it slower. Knows neither the profile nor the terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serverlessllm.arena.mapping import HUGE_PAGE_BYTES, PAGE_BYTES
from serverlessllm.arena.memory import available_memory_bytes
from serverlessllm.arena.scratch import scratch
from serverlessllm.clock import Clock
from serverlessllm.errors import CapacityError, ConfigError, ModelLoadError
from serverlessllm.loader.tune.disk_trial import run_trial
from serverlessllm.loader.tune.probe_file import MIN_BYTES, ProbeFile
from serverlessllm.loader.tune.trial import (
    Method,
    Trial,
    TrialResult,
    choose_best,
    choose_method,
    fastest_of_each,
    grid_trials,
    method_trials,
    possible_bytes_per_s,
)
from serverlessllm.node_profile import IoProfile

PASSES: Final = 2
WRITE_SHARE: Final = 0.25
"""Share of the time that may go into writing the file."""
METHODS_SHARE: Final = 0.1
"""Share of the time for comparing the methods, in each kind of memory."""
MIN_TRIAL_S: Final = 0.02
MEMORY_SHARE: Final = 4
"""The file, and the memory that it is read into, are at most this part of the memory that is free."""

OnStep = Callable[[str, float], None]
"""(what is going on, share of the time that has gone by, 0 to 1)."""


@dataclass(frozen=True, slots=True)
class DiskTuning:
    """`results` has one entry per trial, `best` is what loads will do. `has_huge_pages`: of the target memory."""

    directory: str
    file_bytes: int
    has_huge_pages: bool
    seconds: float
    results: tuple[TrialResult, ...]
    best: TrialResult
    possible_bytes_per_s: float

    def profile(self, measured_at_s: float) -> IoProfile:
        """What the node remembers."""
        trial = self.best.trial
        return IoProfile(
            num_threads=trial.num_threads,
            read_bytes=trial.read_bytes,
            is_direct=trial.method == "direct",
            bytes_per_s=self.possible_bytes_per_s,
            measured_at_s=measured_at_s,
        )


class DiskTuner:
    """`run` once. `seconds` bounds it but for the file's first 32 MiB and reads under way at the end."""

    def __init__(
        self,
        directory: Path,
        *,
        seconds: float,
        max_bytes: int,
        wants_huge_pages: bool,
        clock: Clock,
        on_step: OnStep = lambda _text, _share: None,
    ) -> None:
        """`wants_huge_pages`: whether the arena uses them where it can."""
        self._directory = directory
        self._seconds = seconds
        self._max_bytes = max(MIN_BYTES, min(max_bytes, available_memory_bytes() // MEMORY_SHARE))
        self._wants_huge_pages = wants_huge_pages
        self._clock = clock
        self._on_step = on_step
        self._refused: set[Method] = set()
        self._results: list[TrialResult] = []
        self._started_s = 0.0
        self._next = 0

    def run(self) -> DiskTuning:
        """Write, measure, choose; the file is gone afterwards.

        Raises: CapacityError when the disk or the memory is too full; ModelLoadError when the disk fails.
        """
        self._started_s = self._clock.monotonic_s()
        with ProbeFile(self._directory, self._max_bytes) as file:
            file.fill(
                is_time_up=lambda: self._share() > WRITE_SHARE,
                on_progress=lambda _done, _total: self._on_step("writing a file", self._share()),
            )
            pages = self._measure(file)
            results = fastest_of_each(self._results)
            return DiskTuning(
                directory=str(self._directory),
                file_bytes=file.nbytes,
                has_huge_pages=pages == HUGE_PAGE_BYTES,
                seconds=self._clock.monotonic_s() - self._started_s,
                results=tuple(results),
                best=choose_best(results, pages),
                possible_bytes_per_s=possible_bytes_per_s(results),
            )

    def _measure(self, file: ProbeFile) -> int:
        """Run the trials; returns the page size of the memory that a load would read into."""
        try:
            with scratch(file.nbytes, huge=False) as small:
                self._run_methods(file, PAGE_BYTES, small.view)
                if not self._wants_huge_pages:
                    self._run_grid(file, PAGE_BYTES, small.view)
                    return PAGE_BYTES
            with scratch(file.nbytes, huge=True) as large:
                if large.page_bytes == HUGE_PAGE_BYTES:
                    self._run_methods(file, large.page_bytes, large.view)
                self._run_grid(file, large.page_bytes, large.view)
                return large.page_bytes
        except OSError as error:
            raise CapacityError(
                f"no memory for {file.nbytes} bytes to read into: {error}; free some, or take a smaller --size",
                source="cli",
            ) from error

    def _run_methods(self, file: ProbeFile, pages: int, target: memoryview) -> None:
        """Each at least once, whatever the time."""
        trials = method_trials([pages])
        seconds = METHODS_SHARE * self._seconds / (len(trials) * PASSES)
        for number in range(PASSES):
            for trial in trials:
                if trial.method not in self._refused and (number == 0 or self._share() < 1):
                    self._try(file, trial, target, seconds)

    def _run_grid(self, file: ProbeFile, pages: int, target: memoryview) -> None:
        """What is left of the time, without what would overrun its part of it."""
        trials = grid_trials(choose_method(self._results, pages), pages)
        seconds = max(MIN_TRIAL_S, self._seconds * (1 - self._share()) / (len(trials) * PASSES))
        fastest = max(result.bytes_per_s for result in self._results)
        fitting = [trial for trial in trials if trial.in_flight_bytes <= 2 * seconds * fastest]
        for trial in fitting * PASSES:
            if self._share() < 1:
                self._try(file, trial, target, seconds)

    def _try(self, file: ProbeFile, trial: Trial, target: memoryview, seconds: float) -> None:
        text = f"{trial.method}, {trial.num_threads} × {trial.read_bytes >> 10} KiB"
        self._on_step(text, min(1.0, self._share()))
        try:
            result = run_trial(file, trial, target, seconds=seconds, first=self._next)
        except (ConfigError, ModelLoadError):
            if trial.method != "direct":
                raise
            self._refused.add(trial.method)  # the file system has no O_DIRECT, or on another grid than ours
            return
        self._next = (self._next + result.nbytes) % file.nbytes
        self._results.append(result)

    def _share(self) -> float:
        """Of the time, what has gone by."""
        return (self._clock.monotonic_s() - self._started_s) / self._seconds
