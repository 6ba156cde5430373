# SPDX-License-Identifier: Apache-2.0
"""Early reads: the bytes of any ranges, from whatever tier has them, in few requests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.checkpoint.spec import CHUNK_BYTES
from serverlessllm.errors import CorruptDataError
from serverlessllm.loader.plan import Offer, plan_load
from serverlessllm.loader.transfer.early import EarlyReads, Range
from serverlessllm.types import Tier
from support.stand_in_artifact import stand_in_index

SIZES = [CHUNK_BYTES + 5000, 3 * CHUNK_BYTES, 70]
INDEX = stand_in_index([SIZES])
"""One file, so that a byte lies in the region where it lies in the file."""
PATTERN = bytes(range(251))


def content(offset: int, nbytes: int) -> bytes:
    start = offset % len(PATTERN)
    return (PATTERN * (nbytes // len(PATTERN) + 2))[start : start + nbytes]


class Medium:
    """Files whose bytes say where they are; counts what is asked for."""

    def __init__(self, *, is_short: bool = False) -> None:
        self.requests: list[tuple[Tier, int, int]] = []
        self.num_open = 0
        self.is_short = is_short

    def open(self, tier: Tier, file: str) -> Medium.File:
        self.num_open += 1
        return Medium.File(self, tier)

    class File:
        def __init__(self, medium: Medium, tier: Tier) -> None:
            self.medium, self.tier = medium, tier

        def read_into(self, offset: int, view: memoryview) -> int:
            self.medium.requests.append((self.tier, offset, len(view)))
            view[:] = content(offset, len(view))
            return len(view) - 1 if self.medium.is_short else len(view)

        def close(self) -> None:
            self.medium.num_open -= 1


def early(medium: Medium, *, gap_bytes: int = 0) -> EarlyReads:
    """The first shard on disk, the rest elsewhere; ranges less than `gap_bytes` apart are one request."""
    disk = {("model-0.bin", offset) for offset in range(0, SIZES[0], CHUNK_BYTES)}
    plan = plan_load(INDEX, [Offer("nvme", 1e-9, disk), Offer("remote", 1e-8)])
    return EarlyReads(plan.reads, medium.open, lambda tier: gap_bytes / 0.5e-3)


def in_shards(wanted: Range) -> bool:
    return any(
        INDEX.region_offset(shard.id) <= wanted[0]
        and sum(wanted) <= INDEX.region_offset(shard.id) + shard.encodings[0].nbytes
        for shard in INDEX.shards
    )


RANGES = st.lists(
    st.tuples(st.integers(0, INDEX.weights_nbytes), st.integers(1, 9000)).filter(in_shards),
    min_size=1,
    max_size=12,
)


@given(RANGES, st.sampled_from([0, 1000, 1 << 22]))
def test_ranges_hold_their_own_bytes_in_the_order_asked(ranges: Sequence[Range], gap_bytes: int) -> None:
    medium = Medium()
    found = early(medium, gap_bytes=gap_bytes).read(ranges)
    assert found == [content(*wanted) for wanted in ranges]
    assert medium.num_open == 0


def test_close_ranges_are_one_request_far_ones_are_not() -> None:
    medium = Medium()
    early(medium, gap_bytes=100).read([(0, 10), (110, 10), (1000, 10)])
    assert sorted(medium.requests) == [("nvme", 0, 120), ("nvme", 1000, 10)]


def test_each_byte_comes_from_the_tier_that_the_plan_takes_it_from() -> None:
    medium = Medium()
    second = INDEX.region_offset("shard.1")
    early(medium).read([(CHUNK_BYTES - 5, 10), (second, 4)])
    assert {tier for tier, _, _ in medium.requests} == {"nvme", "remote"}


def test_range_outside_the_shards_is_refused() -> None:
    with pytest.raises(CorruptDataError, match="in no shard"):
        early(Medium()).read([(SIZES[0], 10)])


def test_file_that_ends_early_is_named() -> None:
    medium = Medium(is_short=True)
    with pytest.raises(CorruptDataError, match=r"model-0\.bin ends"):
        early(medium).read([(0, 10)])
    assert medium.num_open == 0
