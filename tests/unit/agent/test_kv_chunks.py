# SPDX-License-Identifier: Apache-2.0
"""Which prompt chunks are told of, as blocks come and go."""

from __future__ import annotations

import random

from serverlessllm.agent.kv_chunks import KvChunks

BLOCKS = [bytes([number]) for number in range(6)]


class Told:
    """What a follower knows from the changes alone."""

    def __init__(self, max_chunks: int = 100) -> None:
        self.chunks = KvChunks(self.hear, max_chunks=max_chunks)
        self.names: set[int] = set()

    def hear(self) -> None:
        stored, removed = self.chunks.take_changes()
        assert not set(stored) & set(removed)
        self.names = self.names - set(removed) | set(stored)


def test_chunk_is_told_of_once_all_its_blocks_are_cached() -> None:
    told = Told()
    told.chunks.add([10, 11], [2, 3], BLOCKS[:3])
    told.chunks.note_blocks(BLOCKS[:1], [])
    assert told.names == set()
    told.chunks.note_blocks(BLOCKS[1:2], [])
    assert told.names == {10}
    told.chunks.note_blocks(BLOCKS[2:3], [])
    assert told.names == {10, 11}


def test_chunks_above_a_lost_block_are_withdrawn_and_come_back_with_it() -> None:
    told = Told()
    told.chunks.note_blocks(BLOCKS, [])
    told.chunks.add([10, 11, 12], [2, 4, 6], BLOCKS)
    told.chunks.note_blocks([], BLOCKS[2:3])
    assert told.names == {10}
    told.chunks.note_blocks(BLOCKS[2:3], [])
    assert told.names == {10, 11, 12} == set(told.chunks.published)


def test_chunk_without_a_block_below_is_left_out() -> None:
    told = Told()
    told.chunks.note_blocks(BLOCKS[:1], [])
    told.chunks.add([10, 11], [0, 1], BLOCKS[:1])
    assert told.names == {11}


def test_chunk_whose_tokens_are_other_ones_now_needs_their_blocks() -> None:
    told = Told()
    told.chunks.note_blocks(BLOCKS[:1], [])
    told.chunks.add([10], [1], BLOCKS[:1])
    told.chunks.add([10], [1], BLOCKS[1:2])
    assert told.names == set()
    told.chunks.note_blocks(BLOCKS[1:2], [])
    assert told.names == {10}


def test_the_end_of_the_longest_unused_text_is_forgotten_first() -> None:
    told = Told(max_chunks=3)
    told.chunks.note_blocks(BLOCKS, [])
    told.chunks.add([10, 11], [1, 2], BLOCKS[:2])
    told.chunks.add([20, 21], [1, 2], BLOCKS[2:4])
    assert told.names == {10, 20, 21}
    told.chunks.add([10], [1], BLOCKS[:1])
    told.chunks.add([30], [1], BLOCKS[4:5])
    assert told.names == {10, 20, 30}


def test_told_names_are_those_whose_blocks_are_all_there_after_random_changes() -> None:
    draw = random.Random(8)
    told = Told(max_chunks=10_000)
    blocks = [bytes([number]) for number in range(40)]
    cached: set[bytes] = set()
    needs: dict[int, list[bytes]] = {}
    for number in range(3_000):
        if draw.random() < 0.1:
            digests = draw.sample(blocks, 6)
            names = [number * 10 + index for index in range(3)]
            told.chunks.add(names, [2, 3, 6], digests)
            needs |= {name: digests[:end] for name, end in zip(names, (2, 3, 6), strict=True)}
        stored, removed = draw.sample(blocks, 3), draw.sample(blocks, 2)
        told.chunks.note_blocks(stored, removed)
        cached = cached - set(removed) | set(stored)
        if number % 20 == 0:
            assert told.names == {name for name, digests in needs.items() if cached >= set(digests)}
