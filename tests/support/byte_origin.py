# SPDX-License-Identifier: Apache-2.0
"""A source over bytes in memory that fails when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable

from serverlessllm.errors import SllmError
from serverlessllm.types import Tier

Trouble = Callable[[int], SllmError | None]
"""Number of the read (from 0) → what it raises, or None."""


class ByteOrigin:
    """`reads` lists the (offset, nbytes) that were asked for. `data` may be changed to lie from then on."""

    tier: Tier = "remote"

    def __init__(self, data: bytes, *, name: str = "memory", trouble: Trouble | None = None) -> None:
        self.name = name
        self.data = data
        self.reads: list[tuple[int, int]] = []
        self.trouble = trouble
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def identity(self) -> object:
        return self.data

    def read_into(self, offset: int, view: memoryview) -> int:
        with self._lock:
            number = len(self.reads)
            self.reads.append((offset, len(view)))
        error = self.trouble(number) if self.trouble else None
        if error is not None:
            raise error
        found = self.data[offset : offset + len(view)]
        view[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Nothing is held."""
