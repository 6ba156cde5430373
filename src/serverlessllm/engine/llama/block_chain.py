# SPDX-License-Identifier: Apache-2.0
"""The names of blocks: a salted hash chain over ids. Knows no memory.

    root      = BLAKE3("sllm-kv-v1" ‖ salt as UTF-8)
    digest_i  = BLAKE3(digest_(i-1) ‖ the block's ids, each a little-endian u32)          digest_(-1) = root

A digest stands for all ids up to the block's end and for the salt, so equal digests mean equal keys and values. It is
cryptographic because a tenant chooses the ids: a collision that can be made would show one's cache to another.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from blake3 import blake3

BLOCK_TOKENS: Final = 32
"""Ids per block: what a hit is rounded down to, and the grain of copies (720 KiB for a model of 135M)."""

_ROOT: Final = b"sllm-kv-v1"
_PACK: Final = struct.Struct(f"<{BLOCK_TOKENS}I")


class BlockChain:
    """The digests of one sequence's full blocks, extended as ids come."""

    def __init__(self, salt: str) -> None:
        self._root = blake3(_ROOT + salt.encode()).digest()
        self.digests: list[bytes] = []

    def extend(self, token_ids: Sequence[int]) -> None:
        """Name every full block of `token_ids`; those named before must not have changed."""
        while (start := len(self.digests) * BLOCK_TOKENS) + BLOCK_TOKENS <= len(token_ids):
            parent = self.digests[-1] if self.digests else self._root
            ids = _PACK.pack(*token_ids[start : start + BLOCK_TOKENS])
            self.digests.append(blake3(parent + ids).digest())


def num_blocks_for(num_tokens: int) -> int:
    """Blocks that hold `num_tokens`, the last one perhaps in part."""
    return -(-num_tokens // BLOCK_TOKENS)
