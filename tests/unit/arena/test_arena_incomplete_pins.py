# SPDX-License-Identifier: Apache-2.0
"""Regions that a worker maps before they are whole: never served, never adopted, never reused under it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.mapping import map_extents
from serverlessllm.config import MIB, ArenaConfig
from serverlessllm.errors import CapacityError, NotFoundError

A, B = "a" * 32, "b" * 32
CONFIG = ArenaConfig(budget_bytes=8 * MIB, extent_bytes=2 * MIB, huge_pages="never")


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    opened = Arena.open(tmp_path, CONFIG)
    yield opened
    opened.close(keep=False)


def test_loading_region_is_pinned_only_on_demand(arena: Arena) -> None:
    arena.allocate(A, MIB)
    with pytest.raises(NotFoundError, match="still loading"):
        arena.pin(A)
    with arena.pin(A, incomplete=True):
        assert arena.is_pinned(A)
        assert arena.get(A) is None


def test_worker_sees_bytes_that_arrive_after_it_mapped(arena: Arena) -> None:
    region = arena.allocate(A, MIB)
    with arena.pin(A, incomplete=True) as pin:
        view = map_extents(pin.fd, region.extents, writable=False).view
    region.view[:5] = b"bytes"
    assert bytes(view[:5]) == b"bytes"
    arena.publish(region)
    assert arena.is_pinned(A)
    del view
    assert not arena.is_pinned(A)


def test_room_of_a_failed_load_is_free_once_its_worker_is_gone(arena: Arena) -> None:
    region = arena.allocate(A, 5 * MIB)
    pin = arena.pin(A, incomplete=True)
    arena.discard(region)
    assert not arena.entries()
    with pytest.raises(CapacityError):
        arena.allocate(B, 5 * MIB)
    pin.close()
    arena.allocate(B, 5 * MIB)


def test_incomplete_region_is_not_adopted_while_a_worker_outlives_its_agent(tmp_path: Path) -> None:
    first = Arena.open(tmp_path, CONFIG)
    first.allocate(A, 5 * MIB)
    pin = first.pin(A, incomplete=True)
    first.close(keep=True)
    second = Arena.open(tmp_path, CONFIG)
    assert second.adopted == ()
    assert second.free_bytes == 2 * MIB
    pin.close()
    assert second.free_bytes == 8 * MIB
    second.close(keep=False)
