# SPDX-License-Identifier: Apache-2.0
"""Ends workers that somebody stopped (SIGSTOP, a frozen cgroup's leftovers) and nobody lets go on.

A stopped worker keeps its connection and answers nothing: without this its requests would wait for ever, before their
first token too. Its end is a worker's death like any other: what it ran goes on elsewhere. Reads `/proc`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

NUM_LOOKS: Final = 4
"""How often it is looked within the grace."""

_log = logging.getLogger(__name__)


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped by a signal; one that is traced, or gone, is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rfind(b")") + 2 :].startswith(b"T")


class StoppedWorkers:
    """`pids` are asked anew each time; a process that is stopped at every look for `grace_s` is killed."""

    def __init__(self, pids: Callable[[], Iterable[int]], grace_s: float) -> None:
        self._pids = pids
        self._grace_s = grace_s
        self._num_seen: dict[int, int] = {}

    async def run(self) -> None:
        """Until cancelled; returns at once where `grace_s` is 0."""
        while self._grace_s > 0:
            await asyncio.sleep(self._grace_s / NUM_LOOKS)
            self.look()

    def look(self) -> None:
        """Count who is stopped, and kill who was at `NUM_LOOKS` looks in a row."""
        stopped = [pid for pid in self._pids() if is_stopped(pid)]
        self._num_seen = {pid: self._num_seen.get(pid, 0) + 1 for pid in stopped}
        for pid, num_seen in self._num_seen.items():
            if num_seen >= NUM_LOOKS:
                _log.warning("worker %d was stopped for %.0f s: ending it", pid, self._grace_s)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
