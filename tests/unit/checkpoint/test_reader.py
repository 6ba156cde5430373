# SPDX-License-Identifier: Apache-2.0
"""Opening artifacts: what is there is found, what is damaged is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.errors import CheckpointFormatError, CorruptDataError, NotFoundError
from support.tiny_checkpoints import CONFIG, tiny_tensors, write_tiny_artifact


def test_tensors_aliases_and_files_read_back(tmp_path: Path) -> None:
    artifact = Artifact.open(write_tiny_artifact(tmp_path).directory)
    for name, array in tiny_tensors().items():
        assert bytes(artifact.tensor(name)) == array.tobytes()
    assert artifact.tensor("lm_head.weight") == artifact.tensor("model.embed_tokens.weight")
    assert artifact.config() == CONFIG
    assert artifact.tensor("model.norm.weight").readonly


def test_another_revision_than_expected_is_refused(tmp_path: Path) -> None:
    directory = write_tiny_artifact(tmp_path).directory
    with pytest.raises(CorruptDataError) as caught:
        Artifact.open(directory, expect_revision="f" * 32)
    assert caught.value.param == "revision"


def test_directory_without_index_is_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFormatError, match="is not an artifact"):
        Artifact.open(tmp_path)


@pytest.mark.parametrize("name", ["model.bin", "config.json"])
def test_missing_and_cut_files_are_named(tmp_path: Path, name: str) -> None:
    directory = write_tiny_artifact(tmp_path).directory
    path = directory / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptDataError, match="the index says") as cut:
        Artifact.open(directory)
    path.unlink()
    with pytest.raises(CorruptDataError, match="is missing") as missing:
        Artifact.open(directory)
    assert cut.value.param == missing.value.param == name


def test_changed_config_is_seen_when_it_is_read(tmp_path: Path) -> None:
    artifact = write_tiny_artifact(tmp_path)
    path = artifact.directory / "config.json"
    path.write_bytes(path.read_bytes().replace(b"llama", b"lluma"))
    with pytest.raises(CorruptDataError, match="differ from their digest"):
        Artifact.open(artifact.directory).config()


def test_unknown_tensor_and_file_are_not_found(tmp_path: Path) -> None:
    artifact = write_tiny_artifact(tmp_path)
    with pytest.raises(NotFoundError, match="no tensor 'x'"):
        artifact.tensor("x")
    with pytest.raises(NotFoundError, match="no file 'x'"):
        artifact.file("x")
