# SPDX-License-Identifier: Apache-2.0
"""Verification: every byte counts, and the first bad one is located."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.verify import verify
from serverlessllm.errors import CorruptDataError
from support.tiny_checkpoints import write_tiny_artifact


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_whole_artifact_reports_progress_and_counts(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    artifact = write_tiny_artifact(tmp_path)
    report = verify(artifact, lambda done, total: seen.append((done, total)))
    assert (report.revision, report.num_chunks, report.num_files) == (artifact.revision, 3, 1)
    assert len(seen) == 3
    assert seen[-1][0] == seen[-1][1]


def test_flipped_bit_is_located_by_shard_chunk_and_file(tmp_path: Path) -> None:
    directory = write_tiny_artifact(tmp_path).directory
    _flip(directory / "model.bin", 4096 + 70)
    with pytest.raises(CorruptDataError, match=r"shard 'block\.0', chunk 0") as caught:
        verify(Artifact.open(directory))
    assert caught.value.param == "model.bin"


def test_bit_in_the_padding_between_shards_is_found(tmp_path: Path) -> None:
    directory = write_tiny_artifact(tmp_path).directory
    _flip(directory / "model.bin", 4000)
    with pytest.raises(CorruptDataError, match=r"padding of shard 'block\.0'"):
        verify(Artifact.open(directory))


def test_every_byte_of_the_weights_is_covered(tmp_path: Path) -> None:
    directory = write_tiny_artifact(tmp_path).directory
    for offset in range(0, (directory / "model.bin").stat().st_size, 37):
        _flip(directory / "model.bin", offset)
        with pytest.raises(CorruptDataError):
            verify(Artifact.open(directory))
        _flip(directory / "model.bin", offset)
    verify(Artifact.open(directory))
