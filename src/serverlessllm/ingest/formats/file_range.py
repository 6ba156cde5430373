# SPDX-License-Identifier: Apache-2.0
"""Bytes of a file into the caller's memory. Knows no format; maps nothing, so that memory limits hold."""

from __future__ import annotations

import os
from pathlib import Path

from serverlessllm.errors import CorruptDataError


def read_range(path: Path, offset: int, view: memoryview, what: str) -> None:
    """Fill `view` from `offset`. Raises CorruptDataError naming the tensor `what` if the file ends before."""
    with path.open("rb", buffering=0) as file:
        while view:
            num_read = os.preadv(file.fileno(), [view], offset)
            if num_read == 0:
                raise CorruptDataError(f"{path}: ends inside tensor {what!r}", param=what)
            view, offset = view[num_read:], offset + num_read
