# SPDX-License-Identifier: Apache-2.0
"""Reads at a pace bring the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

from serverlessllm.clock import SystemClock
from serverlessllm.loader.disk.pace import PIECE_BYTES, DiskPace, PacedFileSource


def test_paced_file_is_read_whole_and_to_its_end(tmp_path: Path) -> None:
    data = os.urandom(2 * PIECE_BYTES + 5)
    (tmp_path / "f").write_bytes(data)
    with PacedFileSource(tmp_path / "f", DiskPace(1e9, SystemClock())) as source:
        whole = bytearray(len(data) + 100)
        assert source.read_into(0, memoryview(whole)) == len(data)
        assert whole[: len(data)] == data
        part = bytearray(PIECE_BYTES + 1)
        assert source.read_into(3, memoryview(part)) == len(part)
        assert part == data[3 : 3 + len(part)]
