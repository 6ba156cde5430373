# SPDX-License-Identifier: Apache-2.0
"""Touches free pages of the arena before a load needs them, in the background and only while nobody works.

A fresh page is zeroed, and on a virtual machine fetched from the host, on first touch: 0.05 to 2.3 s per GB that a
cold start would pay. Knows how much to keep ready and when to hold still; not regions, nor who is busy.

The thread keeps the normal scheduling class: one of idle priority that is preempted while it holds the interpreter's
lock, or the kernel's lock on our address space, would hold up everybody. It is polite by short steps and pauses.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from serverlessllm.arena.memory import available_memory_bytes, machine_memory_bytes

PrefaultState = Literal["off", "touching", "waiting", "ready", "no_memory"]
"""off: not asked for, or stopped · touching · waiting: others work · ready: enough is touched ·
no_memory: the machine has none to spare, or the tmpfs refuses; tried again later."""

PAUSE_RATIO: Final = 1.0
"""Rest per second of touching: at most half of one core goes into it."""
RECHECK_S: Final = 0.5
"""How often to look whether the machine has become idle."""
SPARE_RATIO: Final = 0.1
"""Share of the machine's memory that is left to others."""


class FreePages(Protocol):
    """What is touched; `Arena` is one."""

    @property
    def touched_free_bytes(self) -> int:
        """Free bytes that a region gets without first touch."""

    def touch_free(self, target_bytes: int, *, pause: Callable[[float], bool]) -> int:
        """Touch one more extent while fewer than `target_bytes` are; returns its bytes, 0 when that is enough.

        `pause(seconds)` is called after each step with what the step took; True ends it early.
        """


@dataclass(frozen=True, slots=True)
class PrefaultStatus:
    """`touched_bytes` of `target_bytes` are ready now; `bytes_per_s` is the pace of touching, 0 before the first."""

    state: PrefaultState
    touched_bytes: int
    target_bytes: int
    bytes_per_s: float


class Prefaulter:
    """One thread from `start` to `stop`. Stop it before the arena is closed."""

    def __init__(
        self,
        pages: FreePages,
        target_bytes: int,
        *,
        is_busy: Callable[[], bool] = lambda: False,
        memory_bytes: Callable[[], int] = available_memory_bytes,
    ) -> None:
        """Keep `target_bytes` touched. `is_busy` is asked from the thread, before each extent and in pauses."""
        self._pages = pages
        self._target_bytes = target_bytes
        self._is_busy = is_busy
        self._memory_bytes = memory_bytes
        self._spare_bytes = int(machine_memory_bytes() * SPARE_RATIO)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._state: PrefaultState = "off"
        self._done_bytes = 0
        self._worked_s = 0.0

    def start(self) -> None:
        """Begin; does nothing when there is nothing to keep ready."""
        if self._target_bytes > 0 and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="arena-prefault", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End within one step of 2 MiB. Idempotent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._state = "off"

    def status(self) -> PrefaultStatus:
        """How far it is."""
        pace = self._done_bytes / self._worked_s if self._worked_s > 0 else 0.0
        return PrefaultStatus(self._state, self._pages.touched_free_bytes, self._target_bytes, pace)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._state = self._advance()
            if self._state != "touching":
                self._stop.wait(RECHECK_S)

    def _advance(self) -> PrefaultState:
        """Touch one extent, if now is the time for it."""
        if self._is_busy():
            return "waiting"
        if self._memory_bytes() < self._spare_bytes:
            return "no_memory"
        self._state = "touching" if self._state != "ready" else "ready"
        started_s = time.monotonic()
        rested_s = 0.0

        def pause(step_s: float) -> bool:
            nonlocal rested_s
            before_s = time.monotonic()
            is_over = self._stop.wait(step_s * PAUSE_RATIO) or self._is_busy()
            rested_s += time.monotonic() - before_s
            return is_over

        try:
            touched_bytes = self._pages.touch_free(self._target_bytes, pause=pause)
        except OSError:
            return "no_memory"
        if touched_bytes == 0:
            return "waiting" if self._is_busy() else "ready"
        self._done_bytes += touched_bytes
        self._worked_s += time.monotonic() - started_s - rested_s
        return "touching"
