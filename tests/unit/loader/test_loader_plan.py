# SPDX-License-Identifier: Apache-2.0
"""The plan: every byte once, in execution order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.loader.plan import ChunkRead, plan_load
from support.stand_in_artifact import stand_in_index

FILES = st.lists(st.lists(st.integers(1, 40_000), min_size=1, max_size=5), min_size=1, max_size=3)


@given(FILES, st.integers(1, 5).map(lambda pages: pages * 4096))
def test_plan_covers_every_byte_of_every_shard_once_in_order(
    files: list[list[int]], chunk_bytes: int
) -> None:
    index = stand_in_index(files)
    plan = plan_load(index, chunk_bytes)
    expected = [
        (number, start)
        for number, shard in enumerate(index.shards)
        for start in range(shard.encodings[0].nbytes)
    ]
    read = [
        (chunk.shard, chunk.region_offset - index.region_offset(plan.shard_ids[chunk.shard]) + i)
        for chunk in plan.chunks
        for i in range(chunk.nbytes)
    ]
    assert read == expected
    assert plan.total_bytes == sum(map(sum, files))


@given(FILES, st.integers(1, 5).map(lambda pages: pages * 4096))
def test_padded_reads_never_overlap_and_fit_the_region(files: list[list[int]], chunk_bytes: int) -> None:
    index = stand_in_index(files)
    end = 0
    for chunk in plan_load(index, chunk_bytes).chunks:
        assert chunk.region_offset == end
        assert chunk.padded_bytes <= chunk_bytes
        assert chunk.region_offset % 4096 == chunk.file_offset % 4096 == 0
        end = chunk.region_offset + chunk.padded_bytes
    assert end == -(-index.weights_nbytes // 4096) * 4096


def test_plan_names_files_sizes_and_places() -> None:
    plan = plan_load(stand_in_index([[5000], [10]]), 4096)
    assert plan.chunks == (
        ChunkRead(0, "model-0.bin", 0, 0, 4096),
        ChunkRead(0, "model-0.bin", 4096, 4096, 904),
        ChunkRead(1, "model-1.bin", 0, 8192, 10),
    )
    assert plan.file_bytes == {"model-0.bin": 5000, "model-1.bin": 10}


@pytest.mark.parametrize("chunk_bytes", [0, -4096, 1000])
def test_chunk_size_off_the_grid_is_refused(chunk_bytes: int) -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        plan_load(stand_in_index([[1]]), chunk_bytes)
