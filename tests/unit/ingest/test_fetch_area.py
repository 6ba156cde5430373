# SPDX-License-Identifier: Apache-2.0
"""Fetched files: kept for the next try, never shared by two at once, removed when nobody comes back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serverlessllm.ingest.fetch_area import FetchArea, area_name, free_bytes, make_room, sweep


def _leave(parent: Path, source: str, *, age_s: float = 0.0) -> Path:
    """An area that an earlier job left, with a file in it."""
    with FetchArea(parent, source) as area:
        (area.path / "model.bin").write_bytes(b"x" * 10)
    left_s = area.path.stat().st_mtime - age_s
    os.utime(area.path, (left_s, left_s))
    return area.path


def test_files_are_there_for_the_next_try(tmp_path: Path) -> None:
    path = _leave(tmp_path, "hf://a/b@1")
    with FetchArea(tmp_path, "hf://a/b@1") as again:
        assert again.path == path and (path / "model.bin").exists()
    assert area_name("hf://a/b@2") != path.name


def test_two_never_work_in_one_area(tmp_path: Path) -> None:
    with FetchArea(tmp_path, "s"), pytest.raises(BlockingIOError):
        FetchArea(tmp_path, "s", wait=False)


def test_discarded_area_is_gone_and_can_be_made_anew(tmp_path: Path) -> None:
    path = _leave(tmp_path, "s")
    FetchArea(tmp_path, "s").discard()
    assert not path.exists()
    with FetchArea(tmp_path, "s") as again:
        assert list(again.path.iterdir()) == []


def test_sweep_removes_what_is_old_unwanted_and_idle(tmp_path: Path) -> None:
    old, young, wanted = (_leave(tmp_path, name, age_s=age) for name, age in (("o", 60), ("y", 0), ("w", 60)))
    with FetchArea(tmp_path, "busy") as busy:
        os.utime(busy.path, (0, 0))
        assert sweep(tmp_path, {wanted.name}, 30.0) == [old.name]
    assert young.exists() and wanted.exists()


def test_room_is_made_from_the_longest_left(tmp_path: Path) -> None:
    first, second = _leave(tmp_path, "a", age_s=60), _leave(tmp_path, "b", age_s=30)
    assert make_room(tmp_path, 0) > 0 and first.exists()
    make_room(tmp_path, free_bytes(tmp_path) * 2)  # cannot be had: everything idle goes
    assert not first.exists() and not second.exists()
