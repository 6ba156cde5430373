# SPDX-License-Identifier: Apache-2.0
"""Loads whose bytes come from origins: to DRAM and disk at once, resumed, mended, never visible half-done."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.mapping import map_extents
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.verify import verify
from serverlessllm.clock import SystemClock
from serverlessllm.config import MIB, ArenaConfig, LoaderConfig
from serverlessllm.errors import CapacityError, CorruptDataError, UnreachableError
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.loader import Loader
from serverlessllm.loader.report import LoadReport
from support.directory_origins import DirectoryOrigins
from support.platform import eventually
from support.simulated_artifact import write_simulated_artifact

WEIGHTS_BYTES = 34 * MIB
"""Four shards of a chunk and a bit."""


class Node:
    """A loader over an empty disk; `artifact` lies whole at the origins `a` and `b`."""

    def __init__(self, home: Path, arena: Arena, *, nvme_budget_bytes: int = 0) -> None:
        self.arena = arena
        self.origins = DirectoryOrigins()
        self.artifacts = home / "artifacts"
        self.artifact = write_simulated_artifact(home / "a", nbytes=WEIGHTS_BYTES)
        self.revision = self.artifact.revision
        self.a = str(self.artifact.directory)
        self.b = shutil.copytree(self.a, home / "b" / self.revision).as_posix()
        self.clock = SystemClock()
        self.nvme = NvmeTier(self.artifacts, nvme_budget_bytes, self.clock)
        self.start()

    def start(self) -> None:
        """A fresh loader, as a restarted agent has it."""
        self.loader = Loader(
            self.arena,
            self.nvme,
            LoaderConfig(threads=3),
            self.clock,
            open_origin=self.origins.open,
            num_fetch_workers=2,
        )

    @property
    def here(self) -> Path:
        return self.artifacts / self.revision

    async def load(self, *origins: str) -> LoadReport:
        """As the agent does: the small files first."""
        artifact = await self.loader.manifest(self.revision, self.here, origins)
        return await self.loader.load(self.revision, artifact, origins=origins)

    async def settled(self) -> Artifact:
        """The artifact on disk once it is whole, every byte checked; a fresh loader after that."""
        await self.loader.close()
        self.start()
        artifact = Artifact.open(self.here, expect_revision=self.revision)
        verify(artifact)
        return artifact

    def region_is_right(self) -> bool:
        region = self.arena.get(self.revision)
        assert region is not None
        with self.arena.pin(self.revision) as pin:
            view = map_extents(pin.fd, region.extents, writable=False).view
            return all(
                view[place.offset : place.offset + place.nbytes] == self.artifact.tensor(place.name)
                for place in self.artifact.layout().tensors
            )

    def flip_bit(self, offset: int = 9 * MIB) -> None:
        with (self.here / "model.bin").open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 4]))

    def forget_dram(self) -> None:
        self.arena.release(self.revision)

    def names(self) -> set[str]:
        """What lies in the artifacts' directory."""
        return {path.name for path in self.artifacts.iterdir()} - {".nvme.json"}


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    opened = Arena.open(
        tmp_path / "arena", ArenaConfig(budget_bytes=64 * MIB, extent_bytes=2 * MIB, huge_pages="never")
    )
    yield opened
    opened.close(keep=False)


@pytest.fixture
async def node(tmp_path: Path, arena: Arena) -> AsyncIterator[Node]:
    made = Node(tmp_path, arena)
    yield made
    await made.loader.close()


async def test_bytes_go_to_dram_and_disk_at_once(node: Node) -> None:
    report = await node.load(node.a)
    assert (report.tier, report.limiting, report.read_ms) == ("remote", "remote", 0)
    assert report.fetch_ms > 0
    assert report.verified_bytes >= WEIGHTS_BYTES
    assert node.region_is_right()
    artifact = await node.settled()
    assert artifact.small_files() == node.artifact.small_files()
    assert node.names() == {node.revision}
    assert node.loader.bandwidth("nvme").samples == 0


async def test_second_load_asks_no_origin(node: Node) -> None:
    await node.load(node.a)
    await node.settled()
    sent = dict(node.origins.read_bytes)
    node.forget_dram()
    report = await node.load(node.a)
    assert (report.tier, node.origins.read_bytes) == ("nvme", sent)
    assert report.verified_bytes == report.sources[0].nbytes


async def test_both_origins_are_used_and_observed(node: Node) -> None:
    report = await node.load(node.a, node.b)
    assert {share.source.rpartition("/")[0] for share in report.sources} == {node.a, node.b}
    assert sum(share.nbytes for share in report.sources) == sum(node.origins.read_bytes.values())
    assert len(node.loader.source_bandwidths()) == 2


async def test_cancelled_load_keeps_what_is_complete_and_the_next_one_fetches_the_rest(node: Node) -> None:
    reached, gate = threading.Event(), threading.Event()

    def hold(origin: str, offset: int) -> None:
        if offset >= 17 * MIB:
            reached.set()
            gate.wait(30)

    node.origins.before_read = hold
    call = asyncio.create_task(node.load(node.a))
    await asyncio.to_thread(reached.wait, 30)
    await asyncio.to_thread(eventually, lambda: node.origins.read_bytes.get(node.a, 0) >= 16 * MIB)
    call.cancel()
    for _ in range(10):  # turns of the loop in which the cancellation reaches the reading threads
        await asyncio.sleep(0)
    gate.set()
    await asyncio.wait({call})
    assert (node.arena.used_bytes, node.names()) == (0, {f".fetch-{node.revision}"})
    node.origins.before_read = lambda origin, offset: None
    first_bytes = node.origins.read_bytes[node.a]
    await node.load(node.a)
    assert node.region_is_right()
    assert node.origins.read_bytes[node.a] - first_bytes <= WEIGHTS_BYTES - 16 * MIB
    await node.settled()
    assert node.names() == {node.revision}


async def test_flipped_bit_on_disk_is_mended_from_an_origin_and_the_bad_copy_put_aside(node: Node) -> None:
    await node.load(node.a)
    await node.settled()
    node.forget_dram()
    node.flip_bit()
    sent = node.origins.read_bytes[node.a]
    report = await node.load(node.a)
    assert report.tier == "remote"
    assert node.origins.read_bytes[node.a] - sent <= 8 * MIB
    assert node.region_is_right()
    await node.settled()
    assert node.names() == {node.revision, ".bad"}


async def test_flipped_bit_without_an_origin_is_a_clear_error_and_the_bad_copy_is_put_aside(
    node: Node,
) -> None:
    await node.load(node.a)
    artifact = await node.settled()
    node.forget_dram()
    node.flip_bit()
    with pytest.raises(CorruptDataError, match=r"differ from their digest.*put aside: .*\.bad/"):
        await node.loader.load(node.revision, artifact)
    assert node.arena.used_bytes == 0
    with pytest.raises(CorruptDataError, match=r"model\.bin is missing"):
        await node.loader.load(node.revision, artifact)
    assert (await node.loader.load(node.revision, artifact, origins=[node.a])).tier == "remote"
    await node.settled()


async def test_small_file_that_is_wrong_on_disk_is_mended(node: Node) -> None:
    await node.load(node.a)
    await node.settled()
    (node.here / "tokenizer.json").write_bytes(b"{}")
    await node.loader.manifest(node.revision, node.here, [node.a])
    await node.settled()


async def test_origin_that_lies_is_blamed_and_another_one_used(node: Node) -> None:
    node.origins.liars = {node.a}
    await node.load(node.a, node.b)
    assert node.region_is_right()
    await node.settled()


async def test_lone_origin_is_asked_again_for_what_lost_a_bit_on_the_way(node: Node) -> None:
    node.origins.flip_once = {"tokenizer.json", "model.bin"}
    await node.load(node.a)
    assert (node.origins.flip_once, node.region_is_right()) == (set(), True)
    await node.settled()


async def test_nothing_is_visible_when_every_origin_lies(node: Node) -> None:
    node.origins.liars = {node.a, node.b}
    with pytest.raises(CorruptDataError, match="no origin is left"):
        await node.load(node.a, node.b)
    assert node.arena.used_bytes == 0
    assert not node.here.exists()


async def test_origins_that_do_not_answer_are_named(node: Node) -> None:
    artifact = await node.loader.manifest(node.revision, node.here, [node.a])
    node.origins.dead = {node.a, node.b}
    with pytest.raises(UnreachableError, match=f"{node.a} does not answer"):
        await node.loader.load(node.revision, artifact, origins=[node.a, node.b])


async def test_disk_without_room_is_a_clear_error_before_a_byte_is_fetched(
    tmp_path: Path, arena: Arena
) -> None:
    node = Node(tmp_path, arena, nvme_budget_bytes=8 * MIB)
    with pytest.raises(CapacityError, match=r"bytes of disk.*loader\.nvme_budget_bytes"):
        await node.load(node.a)
    assert (node.origins.read_bytes, node.arena.used_bytes) == ({}, 0)
    node.nvme = NvmeTier(node.artifacts, 0, node.clock)
    await node.loader.close()
    node.start()
    assert (await node.load(node.a)).tier == "remote"
    await node.settled()
    await node.loader.close()


async def test_copies_with_an_origin_make_room_and_those_without_stay(tmp_path: Path, arena: Arena) -> None:
    node = Node(tmp_path, arena, nvme_budget_bytes=90 * MIB)
    await node.load(node.a)
    await node.settled()
    other = write_simulated_artifact(tmp_path / "c", "other", nbytes=WEIGHTS_BYTES)
    only = write_simulated_artifact(node.artifacts, "only", nbytes=WEIGHTS_BYTES)
    artifact = await node.loader.manifest(
        other.revision, node.artifacts / other.revision, [str(other.directory)]
    )
    node.forget_dram()
    await node.loader.load(other.revision, artifact, origins=[str(other.directory)])
    await node.loader.close()
    assert node.names() == {other.revision, only.revision}


async def test_adopted_region_with_a_flipped_bit_is_dropped_and_loaded_again(tmp_path: Path) -> None:
    config = ArenaConfig(budget_bytes=64 * MIB, extent_bytes=2 * MIB, huge_pages="never")
    first = Node(tmp_path, Arena.open(tmp_path / "arena", config))
    await first.load(first.a)
    artifact = await first.settled()
    await first.loader.close()
    region = first.arena.get(first.revision)
    assert region is not None
    fd = os.open(first.arena.path, os.O_RDWR)
    first.arena.close(keep=True)
    os.pwrite(fd, b"\x55", region.extents[0][0] + 9 * MIB)
    os.close(fd)
    first.arena = Arena.open(tmp_path / "arena", config)
    first.start()
    assert first.arena.adopted == (first.revision,)
    report = await first.loader.load(first.revision, artifact)
    assert report.tier == "nvme"
    assert first.region_is_right()
    await first.loader.close()
    first.arena.close(keep=False)


async def test_adopted_region_is_checked_once_and_then_served(tmp_path: Path) -> None:
    config = ArenaConfig(budget_bytes=64 * MIB, extent_bytes=2 * MIB, huge_pages="never")
    node = Node(tmp_path, Arena.open(tmp_path / "arena", config))
    await node.load(node.a)
    artifact = await node.settled()
    await node.loader.close()
    node.arena.close(keep=True)
    node.arena = Arena.open(tmp_path / "arena", config)
    node.start()
    assert [entry.verified for entry in node.arena.entries()] == [False]
    assert await node.loader.check_adopted(node.revision, artifact)
    assert [entry.verified for entry in node.arena.entries()] == [True]
    assert (await node.loader.load(node.revision, artifact)).tier == "dram"
    await node.loader.close()
    node.arena.close(keep=False)


async def test_fetch_that_was_whole_in_memory_alone_is_settled_after_a_restart(tmp_path: Path) -> None:
    config = ArenaConfig(budget_bytes=64 * MIB, extent_bytes=2 * MIB, huge_pages="never")
    node = Node(tmp_path, Arena.open(tmp_path / "arena", config))
    await node.load(node.a)
    await node.settled()
    await node.loader.close()
    node.arena.close(keep=True)
    # As a kill leaves it that comes between the last byte and the first file.
    (node.artifacts / f".fetch-{node.revision}").mkdir()
    shutil.rmtree(node.here)
    node.arena = Arena.open(tmp_path / "arena", config)
    node.start()
    sent = dict(node.origins.read_bytes)
    assert (await node.load(node.a)).tier == "dram"
    await node.settled()
    assert (node.names(), node.origins.read_bytes) == ({node.revision}, sent)
    await node.loader.close()
    node.arena.close(keep=False)
