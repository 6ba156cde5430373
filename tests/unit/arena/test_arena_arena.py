# SPDX-License-Identifier: Apache-2.0
"""The arena in one process: room, publication, release, adoption, budgets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.mapping import map_extents
from serverlessllm.config import ArenaConfig
from serverlessllm.errors import (
    CapacityError,
    ConfigError,
    ConflictError,
    InsufficientMemoryError,
    InvalidRequestError,
    NotFoundError,
)

MIB = 1 << 20
A, B, C = "a" * 32, "b" * 32, "c" * 32
SMALL = ArenaConfig(budget_bytes=8 * MIB, extent_bytes=2 * MIB, huge_pages="never")


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    opened = Arena.open(tmp_path, SMALL)
    yield opened
    opened.close(keep=False)


def fill(arena: Arena, revision: str, nbytes: int, value: int) -> None:
    region = arena.allocate(revision, nbytes)
    region.view[:] = bytes([value]) * len(region.view)
    arena.publish(region)


def content(arena: Arena, revision: str) -> bytes:
    region = arena.get(revision)
    assert region is not None
    with arena.pin(revision) as pin:
        return bytes(map_extents(pin.fd, region.extents, writable=False).view)


def test_published_region_reads_back_with_a_zeroed_tail(arena: Arena) -> None:
    fill(arena, A, 3 * MIB + 10, 7)
    data = content(arena, A)
    assert len(data) == 3 * MIB + 4096
    assert data[: 3 * MIB + 10] == b"\7" * (3 * MIB + 10)
    assert not any(data[3 * MIB + 10 :])


def test_loading_region_is_not_served_and_not_pinnable(arena: Arena) -> None:
    region = arena.allocate(A, MIB)
    assert arena.get(A) is None
    assert not region.complete
    with pytest.raises(NotFoundError, match="still loading"):
        arena.pin(A)


def test_published_region_is_no_longer_writable(arena: Arena) -> None:
    region = arena.allocate(A, MIB)
    arena.publish(region)
    with pytest.raises(ValueError, match="read-only"):
        _ = region.view
    with pytest.raises(ConflictError):
        arena.publish(region)


def test_budget_is_counted_in_whole_extents(arena: Arena) -> None:
    fill(arena, A, 2 * MIB + 1, 1)
    assert (arena.used_bytes, arena.free_bytes) == (4 * MIB, 4 * MIB)
    arena.release(A)
    assert (arena.used_bytes, arena.free_bytes) == (0, 8 * MIB)


def test_region_larger_than_the_budget_can_never_fit(arena: Arena) -> None:
    with pytest.raises(InsufficientMemoryError, match="raise arena.budget_bytes"):
        arena.allocate(A, 8 * MIB + 1)


def test_region_without_room_now_may_come_later(arena: Arena) -> None:
    fill(arena, A, 6 * MIB, 1)
    with pytest.raises(CapacityError, match="2097152 are free"):
        arena.allocate(B, 4 * MIB)
    arena.release(A)
    fill(arena, B, 4 * MIB, 2)


def test_scattered_room_is_one_region(arena: Arena) -> None:
    for revision in (A, B, C):
        fill(arena, revision, 2 * MIB, 1)
    arena.release(B)
    fill(arena, "d" * 32, 4 * MIB, 9)
    assert content(arena, "d" * 32) == b"\x09" * (4 * MIB)
    assert content(arena, A) == b"\1" * (2 * MIB)


@pytest.mark.parametrize(("revision", "nbytes"), [("../x", 1), ("A" * 32, 1), (A, 0)])
def test_malformed_allocation_is_refused(arena: Arena, revision: str, nbytes: int) -> None:
    with pytest.raises(InvalidRequestError):
        arena.allocate(revision, nbytes)


def test_same_revision_twice_is_a_conflict(arena: Arena) -> None:
    arena.allocate(A, MIB)
    with pytest.raises(ConflictError):
        arena.allocate(A, MIB)


def test_released_pages_are_kept_for_the_next_region(arena: Arena) -> None:
    fill(arena, A, 4 * MIB, 1)
    arena.release(A)
    assert arena.path.stat().st_blocks * 512 >= 4 * MIB
    fill(arena, B, 4 * MIB, 2)
    assert arena.path.stat().st_blocks * 512 == 4 * MIB


def test_pinned_revision_is_not_released_until_the_pin_closes(arena: Arena) -> None:
    fill(arena, A, MIB, 1)
    pin = arena.pin(A)
    assert arena.is_pinned(A)
    with pytest.raises(ConflictError, match="in use by a worker"):
        arena.release(A)
    pin.close()
    assert not arena.is_pinned(A)
    arena.release(A)


def test_pin_lives_on_in_a_mapping_made_through_it(arena: Arena) -> None:
    fill(arena, A, MIB, 1)
    fill(arena, B, MIB, 1)
    region = arena.get(A)
    assert region is not None
    with arena.pin(A) as pin:
        mapping = map_extents(pin.fd, region.extents, writable=False)
    assert [(entry.revision, entry.pinned) for entry in arena.entries()] == [(A, True), (B, False)]
    mapping.close()
    assert not arena.is_pinned(A)


def test_pin_descriptor_cannot_write(arena: Arena) -> None:
    fill(arena, A, MIB, 1)
    with arena.pin(A) as pin, pytest.raises(OSError):
        os.pwrite(pin.fd, b"x", 0)


def test_reopening_adopts_whole_regions_and_clears_the_rest(tmp_path: Path) -> None:
    first = Arena.open(tmp_path, SMALL)
    fill(first, A, 3 * MIB, 5)
    first.allocate(B, MIB).view[:4] = b"half"
    first.close(keep=True)
    second = Arena.open(tmp_path, SMALL)
    assert second.adopted == (A,)
    assert content(second, A) == b"\5" * (3 * MIB)
    assert (second.get(B), second.used_bytes) == (None, 4 * MIB)
    assert second.path.stat().st_blocks * 512 == 3 * MIB
    second.close(keep=False)


def test_adopted_entries_keep_their_recency(tmp_path: Path) -> None:
    first = Arena.open(tmp_path, SMALL)
    fill(first, A, MIB, 1)
    before = first.entries()[0].last_used_s
    first.touch(A)
    touched = first.entries()[0].last_used_s
    first.close(keep=True)
    second = Arena.open(tmp_path, SMALL)
    assert second.entries()[0].last_used_s == touched >= before
    second.close(keep=False)


@pytest.mark.parametrize(("budget_mib", "extent_mib"), [(8, 4), (2, 2)])
def test_other_geometry_clears_what_does_not_fit(tmp_path: Path, budget_mib: int, extent_mib: int) -> None:
    first = Arena.open(tmp_path, SMALL)
    fill(first, A, 3 * MIB, 1)
    first.close(keep=True)
    changed = ArenaConfig(budget_bytes=budget_mib * MIB, extent_bytes=extent_mib * MIB, huge_pages="never")
    second = Arena.open(tmp_path, changed)
    assert second.adopted == ()
    assert second.path.stat().st_blocks == 0
    second.close(keep=False)


def test_altered_table_clears_everything(tmp_path: Path) -> None:
    first = Arena.open(tmp_path, SMALL)
    fill(first, A, MIB, 1)
    first.close(keep=True)
    table = first.path.with_suffix(".table")
    table.write_bytes(table.read_bytes().replace(b"1048576", b"1048575"))
    second = Arena.open(tmp_path, SMALL)
    assert (second.adopted, second.used_bytes) == ((), 0)
    second.close(keep=False)


def test_closing_without_keep_leaves_no_file(tmp_path: Path) -> None:
    arena = Arena.open(tmp_path, SMALL)
    fill(arena, A, MIB, 1)
    arena.close(keep=False)
    arena.close(keep=False)
    assert not arena.path.exists()
    assert not arena.path.with_suffix(".table").exists()


def test_second_opener_is_told_who_holds_the_arena(arena: Arena, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match=f"process {os.getpid()}"):
        Arena.open(tmp_path, SMALL)


@pytest.mark.parametrize(
    ("config", "param"),
    [
        (ArenaConfig(extent_bytes=3 * MIB, huge_pages="never"), "arena.extent_bytes"),
        (ArenaConfig(budget_bytes=MIB, huge_pages="never"), "arena.budget_bytes"),
        (ArenaConfig(budget_bytes=1 << 60, huge_pages="never"), "arena.budget_bytes"),
    ],
)
def test_settings_that_cannot_be_met_name_the_key(tmp_path: Path, config: ArenaConfig, param: str) -> None:
    with pytest.raises(ConfigError) as failure:
        Arena.open(tmp_path, config)
    assert failure.value.param == param
    Arena.open(tmp_path, SMALL).close(keep=False)
