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
_REPEATS: Final = 3


@torch.inference_mode()
def choose_dtype(num_threads: int) -> DtypeName:
    """Measure a decode-like and a prompt-like product in both dtypes (~50 ms after the libraries' first use).

    bfloat16 must win the sum of both, each relative to float32. Starts the thread pool: run it in a process of
    its own or in a worker, never in one that forks afterwards.
    """
    torch.set_num_threads(num_threads)
    ratio = 0.0
    for num_rows in _ROWS:
        float32_s = _fastest_s(torch.float32, num_rows)
        ratio += _fastest_s(torch.bfloat16, num_rows) / float32_s
    return "bfloat16" if ratio < len(_ROWS) else "float32"


def _fastest_s(dtype: torch.dtype, num_rows: int) -> float:
    """Seconds for one pass over several matrices, too many for the caches to hold all: best of a few."""
    matrices = torch.full((_NUM_MATRICES, *_SHAPE), 0.01, dtype=dtype)
    rows = torch.full((num_rows, _SHAPE[1]), 0.01, dtype=dtype)
    linear(rows, matrices[0])
    fastest_s = float("inf")
    for _ in range(_REPEATS):
        started_s = time.perf_counter()
        for matrix in matrices:
            linear(rows, matrix)
        fastest_s = min(fastest_s, time.perf_counter() - started_s)
    return fastest_s
