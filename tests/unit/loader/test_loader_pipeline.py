# SPDX-License-Identifier: Apache-2.0
"""Local reads over sources in memory: content, order, checks, stop, errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from blake3 import blake3

from serverlessllm.errors import CapacityError, CorruptDataError, ModelLoadError
from serverlessllm.loader.plan import LoadPlan, Offer, plan_load
from serverlessllm.loader.transfer.arrivals import Arrivals
from serverlessllm.loader.transfer.pipeline import ReadLane
from serverlessllm.loader.transfer.read_pool import ReadPool
from support.stand_in_artifact import stand_in_index

SIZES = [[9000, 4096, 100], [20_000]]
REGION_BYTES = 40_960
Progress = list[tuple[int, int]]


class MemorySource:
    """A source over bytes; `fail_at` raises `error` at that offset, `gate` must be open to read."""

    def __init__(
        self,
        data: bytes,
        *,
        fail_at: int = -1,
        error: Exception | None = None,
        gate: threading.Event | None = None,
    ) -> None:
        self.data = data
        self._fail_at = fail_at
        self._error = error
        self._gate = gate
        self.size = len(data)
        self.identity = id(self)

    def read_into(self, offset: int, view: memoryview) -> int:
        if self._gate is not None:
            self._gate.wait(30)
        if offset == self._fail_at:
            raise self._error or ModelLoadError(f"cannot read at offset {offset}")
        part = self.data[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    def close(self) -> None:
        return


@pytest.fixture(params=[1, 4, 16])
def pool(request: pytest.FixtureRequest) -> Iterator[ReadPool]:
    made = ReadPool(request.param)
    yield made
    made.close()


def files() -> list[bytes]:
    """The two files of `SIZES`: shards at 0, 12288 and 16384 of the first."""
    padded = bytearray(os.urandom(16_484))
    padded[9000:12288] = bytes(3288)
    return [bytes(padded), os.urandom(20_000)]


def plan_of(data: list[bytes]) -> LoadPlan:
    """The plan of `SIZES` with the digests of `data`."""
    plan = plan_load(stand_in_index(SIZES), [Offer("nvme", 1.0)])
    reads = tuple(
        replace(
            read,
            digests=(
                blake3(
                    data[int(read.file[6])][read.file_offset : read.file_offset + read.nbytes]
                ).hexdigest(),
            ),
        )
        for read in plan.reads
    )
    return replace(plan, reads=reads)


def lane_of(
    plan: LoadPlan,
    sources: list[MemorySource],
    region: bytearray,
    progress: Progress | None = None,
    *,
    verify: bool = False,
    goes_on: bool = False,
) -> ReadLane:
    named = {f"model-{i}.bin": source for i, source in enumerate(sources)}
    heard = progress if progress is not None else []
    with memoryview(region) as view:
        return ReadLane(
            plan.reads,
            named,
            view,
            Arrivals(plan, lambda done, ready: heard.append((done, ready))),
            step_bytes=4096,
            verify_files=set(named) if verify else set(),
            goes_on=goes_on,
        )


@pytest.mark.parametrize("verify", [False, True])
def test_region_holds_the_files_and_zero_padding(pool: ReadPool, verify: bool) -> None:
    data = files()
    region = bytearray(b"\xff" * REGION_BYTES)
    lane = lane_of(plan_of(data), [MemorySource(d) for d in data], region, verify=verify)
    assert lane.run(pool, 1.0) == []
    assert region == data[0].ljust(20_480, b"\0") + data[1].ljust(20_480, b"\0")
    assert lane.done_bytes == sum(map(sum, SIZES))
    assert lane.verified_bytes == (lane.done_bytes if verify else 0)


def test_progress_grows_to_the_total_and_shards_become_ready_in_order(pool: ReadPool) -> None:
    progress: Progress = []
    data = files()
    lane_of(plan_of(data), [MemorySource(d) for d in data], bytearray(REGION_BYTES), progress).run(pool, 1.0)
    assert progress[-1] == (sum(map(sum, SIZES)), 4)
    assert progress == sorted(progress)


def test_later_shard_is_not_ready_before_an_earlier_one() -> None:
    pool, gate, data = ReadPool(4), threading.Event(), files()
    progress: Progress = []
    sources = [MemorySource(data[0], gate=gate), MemorySource(data[1])]
    lane = lane_of(plan_of(data), sources, bytearray(REGION_BYTES), progress)
    thread = threading.Thread(target=lane.run, args=(pool, 1.0))
    thread.start()
    while not progress:
        gate.wait(0.001)
    assert progress[0] == (20_000, 0)
    gate.set()
    thread.join()
    assert progress[-1][1] == 4
    pool.close()


def test_stopped_lane_ends_between_two_steps_and_lets_the_region_go() -> None:
    pool, gate, data, region = ReadPool(1), threading.Event(), files(), bytearray(REGION_BYTES)
    lane = lane_of(plan_of(data), [MemorySource(d, gate=gate) for d in data], region)
    thread = threading.Thread(target=lane.run, args=(pool, 1.0))
    thread.start()
    lane.stop()
    gate.set()
    thread.join()
    assert not any(region[4096:])
    region.clear()  # a BufferError here means that the lane still holds the region
    pool.close()


def test_flipped_bit_is_a_failure_that_names_the_bytes(pool: ReadPool) -> None:
    data = files()
    wrong = bytearray(data[0])
    wrong[12_300] ^= 1
    sources = [MemorySource(bytes(wrong)), MemorySource(data[1])]
    lane = lane_of(plan_of(data), sources, bytearray(REGION_BYTES), verify=True, goes_on=True)
    (failure,) = lane.run(pool, 1.0)
    assert isinstance(failure.error, CorruptDataError)
    assert "model-0.bin: bytes 12288 to 16384 differ" in failure.error.message
    assert lane.done_bytes == sum(map(sum, SIZES)) - 4096


def test_first_failure_ends_the_run_where_nobody_else_has_the_bytes() -> None:
    pool, data = ReadPool(1), files()
    sources = [MemorySource(data[0], fail_at=0), MemorySource(data[1])]
    lane = lane_of(plan_of(data), sources, bytearray(REGION_BYTES))
    (failure,) = lane.run(pool, 1.0)
    assert "offset 0" in failure.error.message
    assert lane.done_bytes == 0
    pool.close()


def test_source_that_ends_early_is_corrupt_data_naming_the_file(pool: ReadPool) -> None:
    data = files()
    sources = [MemorySource(data[0]), MemorySource(data[1][:15_000])]
    (failure,) = lane_of(plan_of(data), sources, bytearray(REGION_BYTES)).run(pool, 1.0)
    assert "model-1.bin is truncated: it ends at byte 15000" in failure.error.message


def test_error_that_no_other_source_can_mend_is_raised(pool: ReadPool) -> None:
    data = files()
    full = MemorySource(data[0], fail_at=12_288, error=CapacityError("the tmpfs is full"))
    with pytest.raises(CapacityError, match="tmpfs is full"):
        lane_of(plan_of(data), [full, MemorySource(data[1])], bytearray(REGION_BYTES), goes_on=True).run(
            pool, 1.0
        )
