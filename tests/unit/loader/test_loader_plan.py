# SPDX-License-Identifier: Apache-2.0
"""The plan: every byte once, in execution order, from the cheapest tier that has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.checkpoint.spec import CHUNK_BYTES
from serverlessllm.errors import CorruptDataError
from serverlessllm.loader.plan import ChunkRead, Offer, chunk_keys, file_sizes, plan_load
from support.stand_in_artifact import stand_in_index

SIZES = st.integers(1, 5 * CHUNK_BYTES)
FILES = st.lists(st.lists(SIZES, min_size=1, max_size=4), min_size=1, max_size=3)
DISK = Offer("nvme", 1e-9)
ORIGIN = Offer("remote", 1e-8)


@given(FILES, st.integers(1, 40 * (1 << 20)))
def test_plan_covers_every_byte_of_every_shard_once_in_order(
    files: list[list[int]], max_read_bytes: int
) -> None:
    index = stand_in_index(files)
    plan = plan_load(index, [DISK], max_read_bytes=max_read_bytes)
    at = dict.fromkeys(range(len(plan.shard_ids)), 0)
    for read in plan.reads:
        start = index.region_offset(plan.shard_ids[read.shard])
        assert read.region_offset == start + at[read.shard]
        at[read.shard] += read.nbytes
    assert list(at.values()) == [nbytes for sizes in files for nbytes in sizes]
    assert [read.shard for read in plan.reads] == sorted(read.shard for read in plan.reads)
    assert plan.total_bytes == sum(map(sum, files))


@given(FILES)
def test_padded_reads_never_overlap_and_fit_the_region(files: list[list[int]]) -> None:
    index = stand_in_index(files)
    end = 0
    for read in plan_load(index, [DISK]).reads:
        assert read.region_offset == end
        assert read.region_offset % 4096 == read.file_offset % 4096 == 0
        end = read.region_offset + read.padded_bytes
    assert end == -(-index.weights_nbytes // 4096) * 4096


@given(FILES, st.randoms(use_true_random=False))
def test_each_chunk_comes_from_the_cheapest_tier_that_has_it(files: list[list[int]], random: object) -> None:
    index = stand_in_index(files)
    every = set().union(*(chunk_keys(index, file) for file in file_sizes(index)))
    here = {key for key in every if hash((key, str(random))) % 3}
    plan = plan_load(index, [ORIGIN, Offer("nvme", 1e-9, here)], max_read_bytes=3 * CHUNK_BYTES)
    found = {
        (read.file, read.file_offset + start): read.tier
        for read in plan.reads
        for start in range(0, read.nbytes, CHUNK_BYTES)
    }
    assert found == {key: "nvme" if key in here else "remote" for key in every}


def test_faster_origin_is_preferred_to_a_slow_disk() -> None:
    plan = plan_load(stand_in_index([[100]]), [Offer("nvme", 1e-7), Offer("remote", 1e-9)])
    assert plan.slowest_tier == "remote"
    assert plan.tier_bytes("nvme") == 0


def test_disk_is_taken_where_an_origin_costs_the_same() -> None:
    plan = plan_load(stand_in_index([[100]]), [Offer("remote", 1e-9), DISK])
    assert [read.tier for read in plan.reads] == ["nvme"]


def test_chunk_that_nobody_has_is_corrupt_data_naming_the_file() -> None:
    with pytest.raises(CorruptDataError, match=r"model-0\.bin are neither on this node nor"):
        plan_load(stand_in_index([[100]]), [Offer("nvme", 1e-9, set())])


def test_neighbours_are_read_together_up_to_the_read_size() -> None:
    index = stand_in_index([[3 * CHUNK_BYTES + 5], [10]])
    assert plan_load(index, [DISK], max_read_bytes=2 * CHUNK_BYTES).reads == (
        ChunkRead("nvme", 0, "model-0.bin", 0, 0, 2 * CHUNK_BYTES, ()),
        ChunkRead("nvme", 0, "model-0.bin", 2 * CHUNK_BYTES, 2 * CHUNK_BYTES, CHUNK_BYTES + 5, ()),
        ChunkRead("nvme", 1, "model-1.bin", 0, 3 * CHUNK_BYTES + 4096, 10, ()),
    )
    assert file_sizes(index) == {"model-0.bin": 3 * CHUNK_BYTES + 5, "model-1.bin": 10}
