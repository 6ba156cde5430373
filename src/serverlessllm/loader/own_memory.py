# SPDX-License-Identifier: Apache-2.0
"""What the loader holds in memory beside the arena, at most. Pure: it states the bound that the other parts keep.

Weights are read and received in place: where they are to be used. Beside it there are copies of pieces that a slow
origin owes and another one was asked for too, the small files of artifacts that are being fetched, and what each
running load needs to run at all.
"""

from __future__ import annotations

from typing import Final

from serverlessllm.checkpoint.spec import CHUNK_BYTES
from serverlessllm.config import MIB

MAX_LOADS: Final = 16
"""Loads that run at once; more wait for their turn. The device is shared, so more would not be faster."""
MAX_COPIES: Final = 4
"""Pieces of 8 MiB that all fetches together may hold beside the arena."""
BYTES_PER_LOAD: Final = 4 * MIB
"""A load's plan and digests (25 KB per GB), its threads, and its connections' buffers."""


def own_bytes(num_loads: int, *, small_bytes: int = 0) -> int:
    """The bound while `num_loads` run.

    `small_bytes`: files beside the weights (index, tokenizer) of all artifacts that are being fetched or settled.
    """
    return MAX_COPIES * CHUNK_BYTES + min(num_loads, MAX_LOADS) * BYTES_PER_LOAD + small_bytes
