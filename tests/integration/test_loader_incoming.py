# SPDX-License-Identifier: Apache-2.0
"""Regions that are used before they are whole: told of, pinned, read ahead, and freed when their load fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.mapping import map_extents
from serverlessllm.arena.pin import Pin
from serverlessllm.clock import SystemClock
from serverlessllm.config import MIB, ArenaConfig, LoaderConfig
from serverlessllm.errors import CorruptDataError
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.incoming import Incoming
from serverlessllm.loader.loader import Loader
from serverlessllm.loader.plan import arrival_order
from serverlessllm.sources.file import FileSource
from support.stand_in_artifact import StandInArtifact, StandInEncoding, StandInIndex, StandInShard

A = "a" * 32


@pytest.fixture
def gate() -> threading.Event:
    """No byte is read before it is set."""
    return threading.Event()


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    config = ArenaConfig(budget_bytes=8 * MIB, extent_bytes=2 * MIB, huge_pages="never")
    opened = Arena.open(tmp_path / "data", config)
    yield opened
    opened.close(keep=False)


@pytest.fixture
async def loader(arena: Arena, tmp_path: Path, gate: threading.Event) -> AsyncIterator[Loader]:
    class Gated(FileSource):
        def read_into(self, offset: int, view: memoryview) -> int:
            gate.wait(60)
            return super().read_into(offset, view)

    clock = SystemClock()
    made = Loader(arena, NvmeTier(tmp_path, 0, clock), LoaderConfig(threads=3), clock, open_source=Gated)
    yield made
    gate.set()
    await made.close()


class Caller:
    """One call of `load` that was told of the region."""

    def __init__(self, loader: Loader, artifact: StandInArtifact) -> None:
        self.told: asyncio.Future[Incoming] = asyncio.get_running_loop().create_future()
        self.load = asyncio.create_task(loader.load(A, artifact, on_incoming=self.told.set_result))


async def test_region_is_told_of_before_its_first_byte(
    loader: Loader, arena: Arena, tmp_path: Path, gate: threading.Event
) -> None:
    artifact = StandInArtifact.write(tmp_path, A, [MIB, 3 * MIB, 10])
    first = Caller(loader, artifact)
    incoming = await first.told
    late = Caller(loader, artifact)
    assert await late.told is incoming
    assert [nbytes for _, nbytes in incoming.shards] == [MIB, 3 * MIB, 10]
    assert (incoming.tier, incoming.num_ready, arena.get(A)) == ("nvme", 0, None)
    with incoming.pin() as pin:
        view = map_extents(pin.fd, incoming.extents, writable=False).view
    gate.set()
    await asyncio.gather(first.load, late.load)
    assert incoming.num_ready == 3
    assert bytes(view) == artifact.region


async def test_ranges_can_be_read_before_their_turn(
    loader: Loader, tmp_path: Path, gate: threading.Event
) -> None:
    artifact = StandInArtifact.write(tmp_path, A, [MIB, 3 * MIB])
    caller = Caller(loader, artifact)
    incoming = await caller.told
    gate.set()
    ranges = [(2 * MIB, 100), (7, 3)]
    assert await incoming.read_early(ranges) == [artifact.region[at : at + n] for at, n in ranges]
    await caller.load


async def test_failed_load_frees_its_region_though_a_worker_has_mapped_it(
    loader: Loader, arena: Arena, tmp_path: Path, gate: threading.Event
) -> None:
    artifact = StandInArtifact.write(tmp_path, A, [MIB, 3 * MIB])
    path = artifact.directory / "model-0.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    pins: list[Pin] = []
    gate.set()
    with pytest.raises(CorruptDataError):
        await loader.load(A, artifact, on_incoming=lambda incoming: pins.append(incoming.pin()))
    assert not arena.entries()
    pins[0].close()
    assert arena.free_bytes == arena.budget_bytes


def test_blocks_arrive_first_and_embeddings_before_what_is_final() -> None:
    kinds = {"e": "embed", "b0": "block", "b1": "block", "f": "final"}
    shards = tuple(StandInShard(name, (StandInEncoding("x", 0, 1),), kind) for name, kind in kinds.items())
    assert [shard.id for shard in arrival_order(StandInIndex(shards, 1, {}))] == ["b0", "b1", "e", "f"]
