# SPDX-License-Identifier: Apache-2.0
"""The reading threads over sources in memory: content, order, stop, errors."""

from __future__ import annotations

import os
import threading

import pytest

from serverlessllm.errors import CorruptDataError, ModelLoadError
from serverlessllm.loader.pipeline import LoadPipeline
from serverlessllm.loader.plan import plan_load
from support.stand_in_artifact import stand_in_index

SIZES = [[9000, 4096, 100], [20_000]]


class MemorySource:
    """A source over bytes; `fail_at` raises at that offset, `gate` must be open to read."""

    def __init__(self, data: bytes, *, fail_at: int = -1, gate: threading.Event | None = None) -> None:
        self._data = data
        self._fail_at = fail_at
        self._gate = gate
        self.size = len(data)

    def read_into(self, offset: int, view: memoryview) -> int:
        if self._gate is not None:
            self._gate.wait(30)
        if offset == self._fail_at:
            raise ModelLoadError(f"cannot read at offset {offset}")
        part = self._data[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    def close(self) -> None:
        return


def pipeline_of(
    sources: list[MemorySource], region: bytearray, progress: list[tuple[int, int]], *, num_threads: int = 4
) -> LoadPipeline:
    plan = plan_load(stand_in_index(SIZES), 4096)
    named = {f"model-{i}.bin": source for i, source in enumerate(sources)}
    with memoryview(region) as view:
        return LoadPipeline(
            plan,
            named,
            view,
            num_threads=num_threads,
            on_progress=lambda done, ready: progress.append((done, ready)),
        )


def files() -> list[bytes]:
    """The two files of `SIZES`: shards at 0, 12288 and 16384 of the first."""
    padded = bytearray(os.urandom(16_484))
    padded[9000:12288] = bytes(3288)
    return [bytes(padded), os.urandom(20_000)]


@pytest.mark.parametrize("num_threads", [1, 4, 64])
def test_region_holds_the_files_and_zero_padding(num_threads: int) -> None:
    data = files()
    region = bytearray(b"\xff" * (20_480 * 2))
    assert pipeline_of([MemorySource(d) for d in data], region, [], num_threads=num_threads).run()
    assert region == data[0].ljust(20_480, b"\0") + data[1].ljust(20_480, b"\0")


def test_progress_grows_to_the_total_and_shards_become_ready_in_order() -> None:
    progress: list[tuple[int, int]] = []
    pipeline_of([MemorySource(d) for d in files()], bytearray(40_960), progress).run()
    assert progress[-1] == (sum(map(sum, SIZES)), 4)
    assert progress == sorted(progress)


def test_later_shard_is_not_ready_before_an_earlier_one() -> None:
    gate = threading.Event()
    data = files()
    progress: list[tuple[int, int]] = []
    first = MemorySource(data[0], gate=gate)
    pipeline = pipeline_of([first, MemorySource(data[1])], bytearray(40_960), progress, num_threads=6)
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    while not progress:
        gate.wait(0.001)
    assert progress[0][1] == 0
    gate.set()
    thread.join()
    assert progress[-1][1] == 4


def test_stopped_pipeline_returns_false_and_writes_nothing_afterwards() -> None:
    gate = threading.Event()
    region = bytearray(40_960)
    pipeline = pipeline_of([MemorySource(d, gate=gate) for d in files()], region, [], num_threads=2)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(pipeline.run()))
    thread.start()
    pipeline.stop()
    gate.set()
    thread.join()
    assert results == [False]
    assert not any(region[8192:])
    region.clear()  # a BufferError here means that the pipeline still holds the region


def test_failing_source_ends_the_run_with_its_error() -> None:
    data = files()
    sources = [MemorySource(data[0], fail_at=8192), MemorySource(data[1])]
    with pytest.raises(ModelLoadError, match="offset 8192"):
        pipeline_of(sources, bytearray(40_960), []).run()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("load-")]


def test_source_that_ends_early_is_corrupt_data_naming_the_file() -> None:
    data = files()
    sources = [MemorySource(data[0]), MemorySource(data[1][:15_000])]
    with pytest.raises(CorruptDataError, match=r"model-1\.bin is truncated: it ends at byte 15000 of 20000"):
        pipeline_of(sources, bytearray(40_960), []).run()
