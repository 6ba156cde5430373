# SPDX-License-Identifier: Apache-2.0
"""Change the float dtype of raw bytes to f32, f16 or bf16, rounded to nearest even.

numpy has no bfloat16, so it is 16 bits that are the upper half of a float32. f64 goes through float32, as in
torch. Knows no tensors and no files.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from serverlessllm.checkpoint.spec import DTYPE_BYTES
from serverlessllm.errors import UnsupportedCheckpointError

FLOATS: Final = ("f64", "f32", "f16", "bf16")
_BLOCK_ITEMS: Final = 1 << 20
_NUMPY: Final = {"f64": "<f8", "f32": "<f4", "f16": "<f2", "bf16": "<u2"}


def cast_into(
    source: memoryview, source_dtype: str, target: memoryview, target_dtype: str, name: str
) -> None:
    """Convert all of `source` into `target`, which must have the matching size; both are C-contiguous bytes.

    Works in blocks of 1 Mi items, so extra memory is bounded.
    Raises: UnsupportedCheckpointError if a finite value would overflow to infinity; `name` is the tensor's.
    """
    num_items = len(source) // DTYPE_BYTES[source_dtype]
    given = np.frombuffer(source, _NUMPY[source_dtype])
    wanted = np.frombuffer(target, _NUMPY[target_dtype])
    for start in range(0, num_items, _BLOCK_ITEMS):
        block = slice(start, min(start + _BLOCK_ITEMS, num_items))
        wide = _to_f32(given[block], source_dtype, name)
        wanted[block] = _from_f32(wide, target_dtype, name)


def _to_f32(values: npt.NDArray[np.generic], dtype: str, name: str) -> npt.NDArray[np.float32]:
    if dtype == "bf16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        wide = values.astype(np.float32)
    if dtype == "f64":
        _check_overflow(values, wide, "float32", name)
    return wide


def _from_f32(wide: npt.NDArray[np.float32], dtype: str, name: str) -> npt.NDArray[np.generic]:
    if dtype == "bf16":
        rounded = round_to_bf16(wide)
        _check_overflow(wide, (rounded.astype(np.uint32) << 16).view(np.float32), "bfloat16", name)
        return rounded
    with np.errstate(over="ignore"):
        narrow = wide.astype(_NUMPY[dtype])
    if dtype == "f16":
        _check_overflow(wide, narrow, "float16", name)
    return narrow


def round_to_bf16(wide: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = wide.view(np.uint32)
    rounding = ((bits >> 16) & np.uint32(1)) + np.uint32(0x7FFF)
    with np.errstate(over="ignore"):
        rounded = ((bits + rounding) >> 16).astype(np.uint16)
    nan = np.isnan(wide)
    if nan.any():
        rounded[nan] = (bits[nan] >> 16).astype(np.uint16) | np.uint16(0x40)
    return rounded


def _check_overflow(
    before: npt.NDArray[np.generic], after: npt.NDArray[np.generic], dtype: str, name: str
) -> None:
    lost = np.isinf(after)
    if lost.any() and np.isfinite(before[lost]).any():
        raise UnsupportedCheckpointError(
            f"tensor {name!r} has values beyond the range of {dtype}; choose a wider --dtype", param=name
        )
