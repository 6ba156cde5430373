# SPDX-License-Identifier: Apache-2.0
"""Others filled the tmpfs under the arena: the load fails, the process lives. Needs root, to mount a small one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serverlessllm.arena import libc
from serverlessllm.arena.arena import Arena
from serverlessllm.clock import SystemClock
from serverlessllm.config import ArenaConfig, LoaderConfig
from serverlessllm.errors import CapacityError
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.loader import Loader
from support.stand_in_artifact import StandInArtifact

MIB = 1 << 20
A = "a" * 32


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("direct_io", ["auto", "never"])
async def test_full_tmpfs_is_a_capacity_error_and_room_later_suffices(tmp_path: Path, direct_io: str) -> None:
    point = tmp_path / "data" / "huge"
    point.mkdir(parents=True)
    libc.mount_tmpfs("small", str(point), "huge=always,size=16m")
    arena = Arena.open(tmp_path / "data", ArenaConfig(budget_bytes=8 * MIB, extent_bytes=2 * MIB))
    clock = SystemClock()
    loader = Loader(arena, NvmeTier(tmp_path, 0, clock), LoaderConfig(direct_io=direct_io), clock)
    artifact = StandInArtifact.write(tmp_path, A, [5 * MIB, 100])
    hog = point / "hog"
    hog.write_bytes(bytes(12 * MIB))
    with pytest.raises(CapacityError, match="tmpfs is full"):
        await loader.load(A, artifact)
    assert (arena.huge_pages, arena.used_bytes) == (True, 0)
    hog.unlink()
    assert (await loader.load(A, artifact)).tier == "nvme"
    await loader.close()
    arena.close(keep=False)
    libc.umount(str(point))
