# SPDX-License-Identifier: Apache-2.0
"""The format is decided by content; what is none is told what would be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serverlessllm.errors import NotFoundError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.registry import open_source
from support.tiny_checkpoints import CONFIG, write_hf_directory, write_tiny_artifact, write_tiny_gguf


def test_each_accepted_form_opens(tmp_path: Path) -> None:
    directory = write_hf_directory(tmp_path / "hf")
    gguf_file = write_tiny_gguf(tmp_path / "with-any-name")
    paths = [
        directory,
        directory / "model.safetensors",
        gguf_file,
        write_tiny_artifact(tmp_path / "a").directory,
    ]
    assert [open_source(path).config()["model_type"] for path in paths] == ["llama"] * 4


def test_directory_with_one_gguf_opens_it(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    assert open_source(tmp_path).default_dtype == "bf16"


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        open_source(tmp_path / "absent")
    assert caught.value.param == "source"


def test_anything_else_lists_what_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "model.bin").write_text(json.dumps(CONFIG))
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "model.bin"):
        with pytest.raises(UnsupportedCheckpointError, match=r"Accepted: .*\.gguf.*model\.idx"):
            open_source(path)
