# SPDX-License-Identifier: Apache-2.0
"""Which compute dtype this CPU is faster with, by measurement. Knows no model; its caller keeps the answer.

A CPU without bfloat16 instructions converts on the fly and loses; one with them reads half the bytes and wins.
"""

from __future__ import annotations

import time
from typing import Final, Literal

import torch
from torch.nn.functional import linear

DtypeName = Literal["bfloat16", "float32"]

_SHAPE: Final = (3072, 1024)
_NUM_MATRICES: Final = 8
_ROWS: Final = (1, 32)
_REPEATS: Final = 9


@torch.inference_mode()
def choose_dtype(num_threads: int) -> DtypeName:
    """Measure a decode-like and a prompt-like product in both dtypes (~0.4 s after the libraries' first use).

    bfloat16 must win the sum of both, each relative to float32. Starts the thread pool: run it in a process of
    its own or in a worker, never in one that forks afterwards.
    """
    torch.set_num_threads(num_threads)
    ratio = sum(_ratio(num_rows) for num_rows in _ROWS)
    return "bfloat16" if ratio < len(_ROWS) else "float32"


def _ratio(num_rows: int) -> float:
    """Time of a pass in bfloat16 over one in float32, each the best of several.

    The passes alternate: what else the machine does meanwhile, and the answer is kept for good, meets both alike.
    """
    passes = [_Pass(dtype, num_rows) for dtype in (torch.bfloat16, torch.float32)]
    times_s = [[each.run_s() for each in passes] for _ in range(_REPEATS + 1)][1:]
    return min(bfloat16_s for bfloat16_s, _ in times_s) / min(float32_s for _, float32_s in times_s)


class _Pass:
    """Products with several matrices, too many for the caches to hold all."""

    def __init__(self, dtype: torch.dtype, num_rows: int) -> None:
        self._matrices = torch.full((_NUM_MATRICES, *_SHAPE), 0.01, dtype=dtype)
        self._rows = torch.full((num_rows, _SHAPE[1]), 0.01, dtype=dtype)

    def run_s(self) -> float:
        """Seconds of one pass."""
        started_s = time.perf_counter()
        for matrix in self._matrices:
            linear(self._rows, matrix)
        return time.perf_counter() - started_s
