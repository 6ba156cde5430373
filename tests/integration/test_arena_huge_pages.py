# SPDX-License-Identifier: Apache-2.0
"""The huge-page tmpfs, really mounted; needs root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.mapping import map_extents, populate
from serverlessllm.config import ArenaConfig

MIB = 1 << 20
A = "a" * 32
HUGE = ArenaConfig(budget_bytes=8 * MIB, extent_bytes=2 * MIB, huge_pages="always")


def can_mount() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> 21 & 1)


needs_mount = pytest.mark.skipif(not can_mount(), reason="mounting needs CAP_SYS_ADMIN")


@needs_mount
def test_huge_pages_are_mounted_reused_and_unmounted(tmp_path: Path) -> None:
    first = Arena.open(tmp_path, HUGE)
    region = first.allocate(A, 3 * MIB)
    region.view[:] = b"\3" * len(region.view)
    first.publish(region)
    assert first.huge_pages
    assert first.path == tmp_path / "huge" / "arena"
    first.close(keep=True)
    second = Arena.open(tmp_path, HUGE)
    assert second.adopted == (A,)
    second.close(keep=False)
    assert not os.path.ismount(tmp_path / "huge")


@needs_mount
def test_larger_budget_grows_the_mount_and_keeps_what_is_there(tmp_path: Path) -> None:
    first = Arena.open(tmp_path, HUGE)
    first.publish(first.allocate(A, MIB))
    first.close(keep=True)
    second = Arena.open(
        tmp_path, ArenaConfig(budget_bytes=256 * MIB, huge_pages="auto", extent_bytes=2 * MIB)
    )
    assert second.adopted == (A,)
    assert second.budget_bytes == 256 * MIB
    second.close(keep=False)


@needs_mount
def test_budget_is_met_though_a_worker_still_maps_a_removed_arena(tmp_path: Path) -> None:
    config = ArenaConfig(budget_bytes=128 * MIB, huge_pages="always", extent_bytes=2 * MIB)
    first = Arena.open(tmp_path, config)
    first.publish(first.allocate(A, 128 * MIB))
    region = first.get(A)
    assert region is not None
    with first.pin(A) as pin:
        mapping = map_extents(pin.fd, region.extents, writable=False)
    populate(mapping)
    first.close(keep=False)
    second = Arena.open(tmp_path, config)
    assert (second.adopted, second.free_bytes) == ((), 128 * MIB)
    mapping.close()
    second.close(keep=False)
    assert not os.path.ismount(tmp_path / "huge")


@needs_mount
def test_turning_huge_pages_off_frees_what_lay_on_them(tmp_path: Path) -> None:
    first = Arena.open(tmp_path, HUGE)
    first.publish(first.allocate(A, MIB))
    first.close(keep=True)
    second = Arena.open(tmp_path, ArenaConfig(budget_bytes=8 * MIB, huge_pages="never", extent_bytes=2 * MIB))
    assert (second.adopted, second.huge_pages) == ((), False)
    assert not os.path.ismount(tmp_path / "huge")
    second.close(keep=False)


UNPRIVILEGED = f"""
import sys
from pathlib import Path
from serverlessllm.arena.arena import Arena
from serverlessllm.config import ArenaConfig
from serverlessllm.errors import ConfigError
try:
    Arena.open(Path(sys.argv[1]), {HUGE!r})
except ConfigError as error:
    print(error.message)
arena = Arena.open(Path(sys.argv[1]), ArenaConfig(budget_bytes=8 << 20, extent_bytes=2 << 20))
print("fell back to", arena.location)
arena.close(keep=False)
"""


@needs_mount
def test_without_privilege_always_says_what_to_do_and_auto_falls_back(tmp_path: Path) -> None:
    child = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_admin", sys.executable, "-c", UNPRIVILEGED, tmp_path],
        capture_output=True,
        text=True,
    )
    refusal, fallback = child.stdout.splitlines()
    assert "mount -t tmpfs -o huge=always" in refusal
    assert fallback.startswith("fell back to /dev/shm/sllm-")
