# SPDX-License-Identifier: Apache-2.0
"""What every row does once it has its tensors: read one byte of each page, so that none is owed to a later fault."""

from __future__ import annotations

import resource
import time
from typing import Final

import numpy as np
import numpy.typing as npt

PAGE_BYTES: Final = 4096


def touch(tensor: npt.NDArray[np.uint8]) -> int:
    """The sum of one byte of each of the tensor's pages; equal for equal tensors, wherever they lie."""
    return int(tensor[::PAGE_BYTES].sum(dtype=np.uint64)) + int(tensor[-1])


class Stopwatch:
    """Wall time and this process's CPU time since it was made."""

    def __init__(self) -> None:
        self._cpu_s = cpu_s()
        self._started_s = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started_s

    @property
    def cpu_s(self) -> float:
        """User and system time of all its threads."""
        return cpu_s() - self._cpu_s


def cpu_s() -> float:
    """User and system time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
