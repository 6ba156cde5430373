# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import pytest

from serverlessllm.engine.llama.block_chain import BLOCK_TOKENS, BlockChain, num_blocks_for
from serverlessllm.engine.llama.block_pool import BlockPool
from serverlessllm.errors import EngineError


def allocate(pool: BlockPool, count: int) -> list[int]:
    blocks = [pool.allocate() for _ in range(count)]
    return [block for block in blocks if block is not None]


def test_pool_gives_every_block_once_and_then_none() -> None:
    pool = BlockPool(3)
    assert sorted(allocate(pool, 4)) == [0, 1, 2]
    assert pool.num_available == 0


def test_named_block_is_found_after_its_release_until_it_is_needed() -> None:
    pool = BlockPool(1)
    (block,) = allocate(pool, 1)
    pool.name(block, b"name")
    pool.release([block])
    assert pool.find(b"name") == block
    assert pool.is_unused
    assert pool.allocate() == block
    assert pool.find(b"name") is None


def test_the_longest_unused_block_goes_first_and_the_head_of_a_chain_last() -> None:
    pool = BlockPool(4)
    chain, other = allocate(pool, 3), allocate(pool, 1)
    for block in (*chain, *other):
        pool.name(block, bytes([block]))
    pool.release(chain)
    pool.release(other)
    pool.hold(chain[0])
    pool.release([chain[0]])
    assert allocate(pool, 4) == [chain[2], chain[1], other[0], chain[0]]


def test_held_block_is_never_given_away() -> None:
    pool = BlockPool(2)
    kept, gone = allocate(pool, 2)
    pool.name(kept, b"kept")
    pool.hold(kept)
    pool.release([kept, gone])
    assert (pool.allocate(), pool.allocate()) == (gone, None)
    assert not pool.is_shared(kept)


def test_second_block_of_a_name_stays_nameless() -> None:
    pool = BlockPool(2)
    first, second = allocate(pool, 2)
    pool.name(first, b"same")
    pool.name(second, b"same")
    pool.release([second])
    pool.check_integrity([[first]])
    assert pool.find(b"same") == first


def test_lost_reference_is_reported() -> None:
    pool = BlockPool(2)
    allocate(pool, 1)
    with pytest.raises(EngineError, match="1 references, 0 holders"):
        pool.check_integrity([])


def test_accounting_is_exact_after_ten_thousand_random_operations() -> None:
    draw = random.Random(4)
    pool = BlockPool(24)
    tables: list[list[int]] = []
    for step in range(10_000):
        match draw.randrange(5):
            case 0 | 1:
                tables.append(allocate(pool, draw.randrange(4)))
            case 2 if tables:
                shared = draw.choice(tables)
                for block in shared:
                    pool.hold(block)
                tables.append(list(shared))
            case 3 if tables and (table := draw.choice(tables)):
                pool.name(draw.choice(table), draw.randbytes(1))
            case _ if tables:
                pool.release(tables.pop(draw.randrange(len(tables))))
        if step % 50 == 0:
            pool.check_integrity(tables)
    for table in tables:
        pool.release(table)
    pool.check_integrity([])
    assert pool.is_unused


def digests(ids: list[int], salt: str = "") -> list[bytes]:
    chain = BlockChain(salt)
    chain.extend(ids)
    return chain.digests


def test_digest_stands_for_every_id_before_and_for_the_salt() -> None:
    ids = list(range(3 * BLOCK_TOKENS + 5))
    assert len(digests(ids)) == 3
    changed = digests([7, *ids[1:]])
    assert not set(digests(ids)) & set(changed)
    assert not set(digests(ids, "a")) & set(digests(ids, "b"))
    assert digests(ids[: 2 * BLOCK_TOKENS]) == digests(ids)[:2]


def test_chain_that_grows_equals_the_chain_of_all() -> None:
    chain = BlockChain("s")
    ids = list(range(100, 100 + 4 * BLOCK_TOKENS))
    for end in range(len(ids) + 1):
        chain.extend(ids[:end])
    assert chain.digests == digests(ids, "s")
    assert [num_blocks_for(count) for count in (0, 1, BLOCK_TOKENS, BLOCK_TOKENS + 1)] == [0, 1, 1, 2]
