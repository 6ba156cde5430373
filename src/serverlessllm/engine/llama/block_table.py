# SPDX-License-Identifier: Apache-2.0
"""The blocks of one sequence, in the order of its tokens. Knows a pool and a store, no requests.

A table covers every token of a running sequence. Blocks are full and stored (found by others), or reserved for what
the sequence writes next. What others hold too is replaced before this sequence writes to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from serverlessllm.engine.llama.block_chain import BLOCK_TOKENS, BlockChain, num_blocks_for
from serverlessllm.engine.llama.block_pool import BlockPool
from serverlessllm.engine.llama.block_store import BlockStore


class BlockTable:
    """empty → `begin` or `share` → `make_room`, `seal` → `clear` → empty."""

    def __init__(self, pool: BlockPool, store: BlockStore, salt: str) -> None:
        self._pool = pool
        self._store = store
        self._chain = BlockChain(salt)
        self._num_sealed = 0
        self.blocks: list[int] = []

    def begin(self, token_ids: Sequence[int], *, num_spare: int) -> int | None:
        """Hold blocks for all of `token_ids`, cached ones first.

        Returns how many leading tokens are cached, always less than all: the last one's logits are wanted. None
        when fewer than `num_spare` blocks would be left; then nothing is held.
        """
        self._chain.extend(token_ids)
        self._hold_cached((len(token_ids) - 1) // BLOCK_TOKENS)
        num_cached = len(self.blocks)
        if self._pool.num_available < num_blocks_for(len(token_ids)) - num_cached + num_spare:
            self.clear()
            return None
        self._num_sealed = num_cached
        for position in range(num_cached * BLOCK_TOKENS, len(token_ids), BLOCK_TOKENS):
            self.make_room(position)
        return num_cached * BLOCK_TOKENS

    def load(self, slot: int) -> None:
        """Copy the blocks that `begin` found into the window of `slot`."""
        for index in range(self._num_sealed):
            self._store.load(self.blocks[index], slot, index)

    def share(self, other: BlockTable) -> None:
        """Hold what `other` holds; its window must be copied too. Both must have the same ids and salt."""
        for block in other.blocks:
            self._pool.hold(block)
        self.blocks = list(other.blocks)
        self._chain.digests = list(other._chain.digests)
        self._num_sealed = other._num_sealed

    def make_room(self, position: int) -> bool:
        """Whether `position` may be written: a block is added at the end, one that is shared is replaced.

        The replaced block's content needs no copy: what the sequence has of it is in its window.
        """
        index = position // BLOCK_TOKENS
        if index < len(self.blocks) and not self._pool.is_shared(self.blocks[index]):
            return True
        block = self._pool.allocate()
        if block is None:
            return False
        if index < len(self.blocks):
            self._pool.release([self.blocks[index]])
            self.blocks[index] = block
        else:
            self.blocks.append(block)
        return True

    def seal(self, token_ids: Sequence[int], num_computed: int, slot: int) -> None:
        """Store and name every block that is full now; `num_computed` tokens are in the window."""
        if num_computed // BLOCK_TOKENS == self._num_sealed:
            return
        self._chain.extend(token_ids)
        for index in range(self._num_sealed, num_computed // BLOCK_TOKENS):
            block, digest = self.blocks[index], self._chain.digests[index]
            if self._pool.find(digest) is None:
                self._store.save(block, slot, index)
                self._pool.name(block, digest)
        self._num_sealed = num_computed // BLOCK_TOKENS

    @property
    def sealed_digests(self) -> list[bytes]:
        """The names of the blocks that are full."""
        return self._chain.digests[: self._num_sealed]

    def clear(self) -> None:
        """Hold nothing; what is named stays cached."""
        self._pool.release(self.blocks)
        self.blocks = []
        self._num_sealed = 0

    def _hold_cached(self, limit: int) -> None:
        for digest in self._chain.digests[:limit]:
            block = self._pool.find(digest)
            if block is None:
                return
            self._pool.hold(block)
            self.blocks.append(block)
