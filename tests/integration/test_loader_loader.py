# SPDX-License-Identifier: Apache-2.0
"""The loader over a real arena and real files: one load, room made, nothing left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.mapping import map_extents
from serverlessllm.clock import SystemClock
from serverlessllm.config import ArenaConfig, LoaderConfig
from serverlessllm.errors import (
    CapacityError,
    CorruptDataError,
    InsufficientMemoryError,
    ModelLoadError,
    ShuttingDownError,
)
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.loader import Loader
from serverlessllm.loader.report import LoadProgress
from serverlessllm.sources.file import FileSource
from support.platform import eventually
from support.stand_in_artifact import StandInArtifact

MIB = 1 << 20
A, B, C, D = (letter * 32 for letter in "abcd")
CONFIG = LoaderConfig(threads=3, chunk_bytes=256 * 1024)


class GatedSource(FileSource):
    """A file whose reads wait at a gate, and may fail after it."""

    gate = threading.Event()
    reached = threading.Event()
    error: ModelLoadError | None = None
    num_opened = 0

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        type(self).num_opened += 1

    def read_into(self, offset: int, view: memoryview) -> int:
        self.reached.set()
        self.gate.wait(60)
        if self.error is not None:
            raise self.error
        return super().read_into(offset, view)


def loader_over(arena: Arena, artifacts: Path, **changes: Any) -> Loader:
    clock = SystemClock()
    return Loader(arena, NvmeTier(artifacts, 0, clock), CONFIG, clock, **changes)


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    opened = Arena.open(
        tmp_path / "data", ArenaConfig(budget_bytes=8 * MIB, extent_bytes=2 * MIB, huge_pages="never")
    )
    yield opened
    opened.close(keep=False)


@pytest.fixture
async def loader(arena: Arena, tmp_path: Path) -> AsyncIterator[Loader]:
    made = loader_over(arena, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def gated(arena: Arena, tmp_path: Path) -> AsyncIterator[Loader]:
    """A loader whose reads wait until `GatedSource.gate` is set."""
    GatedSource.gate = threading.Event()
    GatedSource.reached = threading.Event()
    GatedSource.error = None
    GatedSource.num_opened = 0
    made = loader_over(arena, tmp_path, open_source=GatedSource)
    yield made
    GatedSource.gate.set()
    await made.close()


def content(arena: Arena, revision: str) -> bytes:
    region = arena.get(revision)
    assert region is not None
    with arena.pin(revision) as pin:
        return bytes(map_extents(pin.fd, region.extents, writable=False).view)


async def reading() -> None:
    """Wait until a thread stands at the gate: the region is allocated and being filled."""
    assert await asyncio.to_thread(GatedSource.reached.wait, 60)


async def test_cold_load_brings_every_byte_and_the_next_one_none(
    loader: Loader, arena: Arena, tmp_path: Path
) -> None:
    artifact = StandInArtifact.write(tmp_path, A, [700_001, 300_000], [1_000_003])
    assert loader.tier(A, on_disk=True) == "nvme"
    cold = await loader.load(A, artifact)
    assert (cold.tier, cold.nbytes) == ("nvme", artifact.index.weights_nbytes)
    assert 0 < cold.gbps <= cold.possible_gbps
    assert cold.verified_bytes == 2_000_004
    assert content(arena, A) == artifact.region
    warm = await loader.load(A, artifact)
    assert (warm.tier, warm.read_ms) == ("dram", 0)
    assert loader.tier(A, on_disk=True) == "dram"
    assert loader.bandwidth("nvme").samples == 1


async def test_recycled_room_shows_no_byte_of_its_former_region(
    loader: Loader, arena: Arena, tmp_path: Path
) -> None:
    await loader.load(A, StandInArtifact.write(tmp_path, A, [7 * MIB]))
    artifact = StandInArtifact.write(tmp_path, B, [100_001, 5, MIB + 1], [3])
    await loader.load(B, artifact)
    assert content(arena, B) == artifact.region


async def test_progress_ends_at_the_total(loader: Loader, tmp_path: Path) -> None:
    artifact = StandInArtifact.write(tmp_path, A, [MIB, MIB, 10])
    heard: list[LoadProgress] = []
    await loader.load(A, artifact, heard.append)
    assert [p.done_bytes for p in heard] == sorted(p.done_bytes for p in heard)
    last = heard[-1]
    assert (last.done_bytes, last.eta_s, last.num_ready_shards) == (last.total_bytes, 0, 3)


async def test_sixty_four_callers_share_one_load(gated: Loader, tmp_path: Path) -> None:
    artifact = StandInArtifact.write(tmp_path, A, [3 * MIB])
    calls = [asyncio.create_task(gated.load(A, artifact)) for _ in range(64)]
    await asyncio.sleep(0)
    GatedSource.gate.set()
    reports = await asyncio.gather(*calls)
    assert {report.tier for report in reports} == {"nvme"}
    assert GatedSource.num_opened == 1


async def test_cancelled_last_caller_frees_the_region_and_a_new_call_loads(
    gated: Loader, arena: Arena, tmp_path: Path
) -> None:
    artifact = StandInArtifact.write(tmp_path, A, [3 * MIB])
    calls = [asyncio.create_task(gated.load(A, artifact)) for _ in range(2)]
    await reading()
    for call in calls:
        call.cancel()
    again = asyncio.create_task(gated.load(A, artifact))
    GatedSource.gate.set()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    assert (await again).tier == "nvme"
    assert content(arena, A) == artifact.region


async def test_cancelled_load_leaves_no_region(gated: Loader, arena: Arena, tmp_path: Path) -> None:
    call = asyncio.create_task(gated.load(A, StandInArtifact.write(tmp_path, A, [3 * MIB])))
    await reading()
    call.cancel()
    GatedSource.gate.set()
    await asyncio.wait({call})
    assert (arena.entries(), arena.used_bytes) == ([], 0)


async def test_failed_read_reaches_every_caller_and_leaves_no_region(
    gated: Loader, arena: Arena, tmp_path: Path
) -> None:
    artifact = StandInArtifact.write(tmp_path, A, [3 * MIB])
    calls = [asyncio.create_task(gated.load(A, artifact)) for _ in range(3)]
    await reading()
    GatedSource.error = ModelLoadError("the disk is gone")
    GatedSource.gate.set()
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(failure) for failure in failures] == ["the disk is gone"] * 3
    assert arena.used_bytes == 0
    GatedSource.error = None
    assert (await gated.load(A, artifact)).tier == "nvme"


@pytest.mark.parametrize("cut_bytes", [1, 4096, MIB])
async def test_truncated_file_is_named_and_takes_no_room(
    loader: Loader, arena: Arena, tmp_path: Path, cut_bytes: int
) -> None:
    await loader.load(B, StandInArtifact.write(tmp_path, B, [7 * MIB]))
    artifact = StandInArtifact.write(tmp_path, A, [MIB], [2 * MIB])
    path = artifact.directory / "model-1.bin"
    path.write_bytes(path.read_bytes()[:-cut_bytes])
    with pytest.raises(CorruptDataError, match=r"model-1\.bin is truncated"):
        await loader.load(A, artifact)
    assert [entry.revision for entry in arena.entries()] == [B]


async def test_missing_file_is_named(loader: Loader, arena: Arena, tmp_path: Path) -> None:
    artifact = StandInArtifact.write(tmp_path, A, [MIB], [MIB])
    (artifact.directory / "model-0.bin").unlink()
    with pytest.raises(CorruptDataError, match=r"model-0\.bin is missing"):
        await loader.load(A, artifact)
    assert arena.used_bytes == 0


async def test_artifact_of_another_revision_is_refused(loader: Loader, tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match=f"not {B}"):
        await loader.load(B, StandInArtifact.write(tmp_path, A, [MIB]))


async def test_least_recently_used_revision_makes_room(loader: Loader, arena: Arena, tmp_path: Path) -> None:
    artifacts = {r: StandInArtifact.write(tmp_path, r, [2 * MIB + 5]) for r in (A, B, C)}
    await loader.load(A, artifacts[A])
    await loader.load(B, artifacts[B])
    await loader.load(A, artifacts[A])
    await loader.load(C, artifacts[C])
    assert [entry.revision for entry in arena.entries()] == [A, C]


async def test_pinned_revision_stays_and_the_refusal_names_it(
    loader: Loader, arena: Arena, tmp_path: Path
) -> None:
    await loader.load(A, StandInArtifact.write(tmp_path, A, [5 * MIB]))
    await loader.load(B, StandInArtifact.write(tmp_path, B, [MIB]))
    artifact = StandInArtifact.write(tmp_path, C, [6 * MIB])
    with arena.pin(A):
        with pytest.raises(CapacityError, match=rf"{A} \(6291456 bytes, in use\)") as failure:
            await loader.load(C, artifact)
        assert B not in failure.value.message
        assert [entry.revision for entry in arena.entries()] == [A, B]
    assert (await loader.load(C, artifact)).tier == "nvme"


async def test_model_larger_than_the_arena_evicts_nobody(
    loader: Loader, arena: Arena, tmp_path: Path
) -> None:
    await loader.load(A, StandInArtifact.write(tmp_path, A, [MIB]))
    with pytest.raises(InsufficientMemoryError):
        await loader.load(B, StandInArtifact.write(tmp_path, B, [9 * MIB]))
    assert arena.get(A) is not None


async def test_thirty_revisions_cycle_through_room_for_four(
    loader: Loader, arena: Arena, tmp_path: Path
) -> None:
    artifacts = [StandInArtifact.write(tmp_path, f"{i:032x}", [MIB + i, 77]) for i in range(30)]
    room = asyncio.Semaphore(4)

    async def use(artifact: StandInArtifact) -> None:
        async with room:
            await loader.load(artifact.revision, artifact)
            with arena.pin(artifact.revision):
                assert content(arena, artifact.revision) == artifact.region
                await asyncio.sleep(0)

    await asyncio.gather(*(use(artifact) for artifact in artifacts * 3))
    assert arena.used_bytes == arena.budget_bytes
    assert not any(entry.pinned for entry in arena.entries())


async def test_load_of_higher_priority_gets_its_share_of_the_disk(arena: Arena, tmp_path: Path) -> None:
    turns: list[str] = []

    class Noted(GatedSource):
        def read_into(self, offset: int, view: memoryview) -> int:
            count = super().read_into(offset, view)
            turns.append(self.path.parent.name)
            return count

    GatedSource.gate, GatedSource.reached = threading.Event(), threading.Event()
    clock = SystemClock()
    config = LoaderConfig(threads=1)
    loader = Loader(arena, NvmeTier(tmp_path, 0, clock), config, clock, open_source=Noted)
    plain, gold = (StandInArtifact.write(tmp_path, r, [128 << 10] * 24) for r in (A, B))
    calls = [asyncio.create_task(loader.load(A, plain))]
    await reading()
    calls.append(asyncio.create_task(loader.load(B, gold, priority=2)))
    await asyncio.to_thread(eventually, lambda: len(loader._parts.pool._turns) == 2)
    GatedSource.gate.set()
    await asyncio.gather(*calls)
    until_gold_is_there = turns[: len(turns) - turns[::-1].index(B)]
    assert 6 <= until_gold_is_there.count(A) <= 8
    await loader.close()


async def test_closed_loader_ends_its_loads_and_takes_no_more(
    gated: Loader, arena: Arena, tmp_path: Path
) -> None:
    artifact = StandInArtifact.write(tmp_path, A, [3 * MIB])
    call = asyncio.create_task(gated.load(A, artifact))
    await reading()
    closing = asyncio.create_task(gated.close())
    await asyncio.sleep(0)
    GatedSource.gate.set()
    await closing
    with pytest.raises(ShuttingDownError):
        await call
    with pytest.raises(ShuttingDownError):
        await gated.load(A, artifact)
    assert arena.used_bytes == 0
