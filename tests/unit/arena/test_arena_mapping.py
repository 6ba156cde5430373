# SPDX-License-Identifier: Apache-2.0
"""Mapping extents back to back: order, protection, lifetime."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serverlessllm.arena.mapping import HUGE_PAGE_BYTES, coalesce, map_extents, populate, touch_view

PAGE = 4096


@pytest.fixture
def paged_fd() -> Iterator[int]:
    """A file of 8 pages, page i filled with byte i."""
    fd = os.memfd_create("pages")
    os.write(fd, b"".join(bytes([i]) * PAGE for i in range(8)))
    yield fd
    os.close(fd)


def test_scattered_extents_read_as_one_range_in_given_order(paged_fd: int) -> None:
    mapping = map_extents(paged_fd, [(5 * PAGE, PAGE), (0, 2 * PAGE), (2 * PAGE, PAGE)], writable=False)
    populate(mapping)
    assert [mapping.view[i * PAGE] for i in range(4)] == [5, 0, 1, 2]
    assert mapping.nbytes == len(mapping.view) == 4 * PAGE
    assert mapping.address % HUGE_PAGE_BYTES == 0
    mapping.close()


def test_writable_mapping_writes_into_the_file(paged_fd: int) -> None:
    mapping = map_extents(paged_fd, [(3 * PAGE, PAGE)], writable=True)
    mapping.view[:4] = b"sllm"
    assert os.pread(paged_fd, 4, 3 * PAGE) == b"sllm"


def test_read_only_mapping_refuses_writes(paged_fd: int) -> None:
    mapping = map_extents(paged_fd, [(0, PAGE)], writable=False)
    with pytest.raises(TypeError):
        mapping.view[0] = 1


def test_close_with_a_living_array_is_refused_and_the_array_stays_valid(paged_fd: int) -> None:
    mapping = map_extents(paged_fd, [(PAGE, PAGE)], writable=False)
    array = np.frombuffer(mapping.view[16:32], dtype=np.uint8)
    with pytest.raises(BufferError, match="still live"):
        mapping.close()
    assert array.tolist() == [1] * 16
    del array
    mapping.close()
    with pytest.raises(ValueError, match="closed"):
        _ = mapping.view


def test_mapping_is_gone_from_the_process_once_closed(paged_fd: int) -> None:
    mapping = map_extents(paged_fd, [(0, PAGE)], writable=False)
    start = f"{mapping.address:x}-"
    assert start in Path("/proc/self/maps").read_text()
    mapping.close()
    mapping.close()
    assert start not in Path("/proc/self/maps").read_text()


def test_view_outlives_its_dropped_mapping(paged_fd: int) -> None:
    view = map_extents(paged_fd, [(2 * PAGE, PAGE)], writable=False).view
    assert view[0] == 2


@pytest.mark.parametrize("extents", [[], [(0, 100)], [(1, PAGE)], [(-PAGE, PAGE)], [(0, 0)]])
def test_extents_off_the_grid_are_refused(paged_fd: int, extents: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError):
        map_extents(paged_fd, extents, writable=False)


def test_coalesce_merges_only_neighbours_in_order() -> None:
    assert coalesce([(0, 2), (2, 3), (9, 1), (5, 4)]) == [(0, 5), (9, 1), (5, 4)]


def test_touched_view_has_its_pages_and_its_bytes() -> None:
    fd = os.memfd_create("fresh")
    os.ftruncate(fd, 4 * PAGE)
    os.pwrite(fd, b"kept", PAGE)
    mapping = map_extents(fd, [(0, 4 * PAGE)], writable=True)
    with mapping.view[PAGE : 3 * PAGE] as part:
        touch_view(part)
    assert os.fstat(fd).st_blocks * 512 == 2 * PAGE
    assert os.pread(fd, 4, PAGE) == b"kept"
    os.close(fd)


def test_view_that_cannot_be_touched_is_left_alone() -> None:
    memory = bytearray(b"x" * 100)
    touch_view(memoryview(memory)[1:])
    assert memory == b"x" * 100
