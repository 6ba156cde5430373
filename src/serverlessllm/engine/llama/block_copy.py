# SPDX-License-Identifier: Apache-2.0
"""Full blocks from one engine to another of the same revision and dtype. Knows no connection.

A block travels under its name (`block_chain.py`): where it arrives it is found by any sequence that begins with the
same ids, like one that was computed there. The bytes are not proven by the name; who sends them is trusted.
"""

from __future__ import annotations

from serverlessllm.engine.llama.block_pool import BlockPool
from serverlessllm.engine.llama.block_store import BlockStore
from serverlessllm.engine.llama.sequence import Sequence
from serverlessllm.errors import InvalidRequestError
from serverlessllm.wire.standby import MAX_COPY_BYTES, BlocksTaken, PutBlocks, TakeBlocks


def take_blocks(message: TakeBlocks, sequence: Sequence | None, store: BlockStore) -> BlocksTaken:
    """The blocks of a running sequence that are full now, from the asked one on, as many as one message carries."""
    digests = [] if sequence is None or sequence.slot < 0 else sequence.table.sealed_digests
    wanted = digests[max(0, message.first) :]
    num_taken = min(len(wanted), max(1, MAX_COPY_BYTES // store.block_bytes))
    slot = -1 if sequence is None else sequence.slot
    indices = range(message.first, message.first + num_taken)
    blocks = [store.window_bytes(slot, index) for index in indices]
    return BlocksTaken(message.request_id, wanted[:num_taken], blocks, len(wanted) - num_taken)


def put_blocks(message: PutBlocks, pool: BlockPool, store: BlockStore) -> int:
    """Store blocks as cached ones, the first ones first; how many of them are found afterwards.

    Nothing that is held gives way. Raises: InvalidRequestError for bytes of another size, before any is stored.
    """
    if len(message.digests) != len(message.blocks):
        raise InvalidRequestError("blocks: not as many as digests", param="blocks")
    for data in message.blocks:
        if len(data) != store.block_bytes:
            raise InvalidRequestError(
                f"blocks: {len(data)} bytes where a block has {store.block_bytes}", param="blocks"
            )
    taken: list[int] = []
    num_stored = 0
    for digest, data in zip(message.digests, message.blocks, strict=True):
        if pool.find(digest) is None:
            block = pool.allocate()
            if block is None:
                break
            store.put(block, data)
            pool.name(block, digest)
            taken.append(block)
        num_stored += 1
    pool.release(taken)
    return num_stored
