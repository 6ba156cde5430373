# SPDX-License-Identifier: Apache-2.0
"""Writing artifacts: all or nothing, reuse of equals, chunk digests, refusals before the first byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from serverlessllm.checkpoint.arrange import TensorSpec, arrange
from serverlessllm.checkpoint.spec import CHUNK_BYTES
from serverlessllm.checkpoint.verify import verify
from serverlessllm.checkpoint.writer import ArtifactWriter
from serverlessllm.errors import CheckpointFormatError
from support.tiny_checkpoints import write_tiny_artifact


def test_equal_content_reuses_the_published_directory(tmp_path: Path) -> None:
    first = write_tiny_artifact(tmp_path)
    inode = first.directory.stat().st_ino
    assert write_tiny_artifact(tmp_path).directory.stat().st_ino == inode
    assert [entry.name for entry in tmp_path.iterdir()] == [first.revision]


def test_damaged_equal_revision_is_replaced(tmp_path: Path) -> None:
    first = write_tiny_artifact(tmp_path)
    (first.directory / "model.bin").write_bytes(b"\0" * first.index.weights_nbytes)
    verify(write_tiny_artifact(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == [first.revision]


def test_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power"), ArtifactWriter(tmp_path) as writer:
        writer.add_file("config.json", b"{}")
        raise RuntimeError("power")
    assert list(tmp_path.iterdir()) == []


def test_digests_cover_8_mib_chunks_of_a_shard(tmp_path: Path) -> None:
    data = bytes(range(256)) * (CHUNK_BYTES // 256) + b"tail"
    arrangement = arrange([TensorSpec("lm_head.weight", "u8", (len(data),))])
    with ArtifactWriter(tmp_path) as writer:
        writer.add_file("config.json", b"{}")
        writer.begin(arrangement, {})
        writer.write("lm_head.weight", data)
        artifact = writer.publish(source_digest="0" * 64, architecture_digest="0" * 64)
    assert artifact.index.shards[0].raw.chunk_digests == (
        blake3(data[:CHUNK_BYTES]).hexdigest(),
        blake3(b"tail").hexdigest(),
    )


def test_missing_or_misplaced_tensors_are_refused(tmp_path: Path) -> None:
    arrangement = arrange([TensorSpec("a", "u8", (1,)), TensorSpec("b", "u8", (1,))])
    with ArtifactWriter(tmp_path) as writer:
        writer.add_file("config.json", b"{}")
        writer.begin(arrangement, {})
        with pytest.raises(CheckpointFormatError, match="expected tensor"):
            writer.write("b", b"x")
        writer.write("a", b"x")
        with pytest.raises(CheckpointFormatError, match="'b' was not written"):
            writer.publish(source_digest="0" * 64, architecture_digest="0" * 64)


def test_broken_rules_are_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    arrangement = arrange([TensorSpec("a", "u8", (1,))])
    with ArtifactWriter(tmp_path) as writer:
        with pytest.raises(CheckpointFormatError, match=r"config\.json is missing"):
            writer.begin(arrangement, {})
        with pytest.raises(CheckpointFormatError, match="plain name"):
            writer.add_file("../config.json", b"{}")
