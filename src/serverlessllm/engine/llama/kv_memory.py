# SPDX-License-Identifier: Apache-2.0
"""Memory for keys and values: reserved address space on the CPU, allocated memory on a GPU. Knows no models.

On the CPU a page exists once it is written, so that binding costs microseconds whatever the context length, and
fresh pages read as zeros. On a GPU all of it is allocated and zeroed at once: what is masked is multiplied by zero,
and so must be a number.
"""

from __future__ import annotations

import math
import mmap
from typing import Final

import torch

from serverlessllm.errors import EngineError

CPU: Final = torch.device("cpu")
_MAP_NORESERVE: Final = 0x4000
_ADVICE: Final = "lower engine.max_model_len_tokens, engine.max_num_seqs or engine.kv_cache_bytes"


class KvMemory:
    """`nbytes` on `device`; freed with the last tensor made from it."""

    def __init__(self, nbytes: int, device: torch.device = CPU) -> None:
        """Raises: EngineError when there is not that much."""
        self._pages: mmap.mmap | None = None
        if device.type == "cpu":
            self._pages = _reserve(nbytes)
            self._bytes = torch.frombuffer(self._pages, dtype=torch.uint8)
            return
        try:
            self._bytes = torch.zeros(nbytes, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"{device} lacks {nbytes} bytes for keys and values; {_ADVICE}") from error

    def as_tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The first bytes as a tensor; no byte is copied."""
        return self._bytes[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)

    def give_back(self, start: int, end: int) -> None:
        """Whole pages of the bytes `start:end` go back to the system; a GPU's stay allocated."""
        start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        end = end // mmap.PAGESIZE * mmap.PAGESIZE
        if self._pages is not None and end > start:
            self._pages.madvise(mmap.MADV_DONTNEED, start, end - start)


def _reserve(nbytes: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    try:
        return mmap.mmap(-1, nbytes, flags=flags)
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"cannot reserve {nbytes} bytes of address space for keys and values: {error}; {_ADVICE}"
        ) from error
