# SPDX-License-Identifier: Apache-2.0
"""Every format reads any part of a tensor as that part of the whole: what bounds the converter's memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from serverlessllm.checkpoint.spec import DTYPE_BYTES
from serverlessllm.ingest.formats.base import Source, SourceTensor
from serverlessllm.ingest.formats.registry import open_source
from support.tiny_checkpoints import write_hf_directory, write_tiny_artifact, write_tiny_gguf


def _torch_directory(path: Path) -> Path:
    """A whole tensor, one in the middle of a storage, a transposed one."""
    path.mkdir()
    (path / "config.json").write_text("{}")
    base = torch.arange(60.0).reshape(6, 10)
    torch.save({"whole": base, "rows": base[2:5], "turned": base.t()}, path / "pytorch_model.bin")
    return path


SOURCES: dict[str, Callable[[Path], Path]] = {
    "safetensors": lambda path: write_hf_directory(path / "hf"),
    "torch": lambda path: _torch_directory(path / "pt"),
    "artifact": lambda path: write_tiny_artifact(path).directory,
    "gguf, quantised": lambda path: write_tiny_gguf(path / "m.gguf"),
    "gguf, float": lambda path: write_tiny_gguf(path / "m.gguf", quantised=False),
    "gguf, not permuted": lambda path: write_tiny_gguf(path / "m.gguf", architecture="qwen2"),
}


def _read(source: Source, tensor: SourceTensor, step_bytes: int) -> bytes:
    data = memoryview(bytearray(tensor.nbytes))
    for offset in range(0, tensor.nbytes, step_bytes):
        source.read_into(tensor.name, data[offset : offset + step_bytes], offset)
    return bytes(data)


@pytest.mark.parametrize("kind", SOURCES)
def test_parts_make_the_whole(tmp_path: Path, kind: str) -> None:
    source = open_source(SOURCES[kind](tmp_path))
    for tensor in source.tensors():
        whole = _read(source, tensor, max(tensor.nbytes, 1))
        for num_items in (1, 7, 33):
            assert _read(source, tensor, num_items * DTYPE_BYTES[tensor.dtype]) == whole, tensor.name


def test_compressed_torch_file_is_read_as_a_whole(tmp_path: Path) -> None:
    import zipfile

    source = _torch_directory(tmp_path / "pt") / "pytorch_model.bin"
    with zipfile.ZipFile(source) as stored:
        entries = {entry.filename: stored.read(entry) for entry in stored.infolist()}
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in entries.items():
            packed.writestr(name, data)
    opened = open_source(source.parent)
    whole = next(tensor for tensor in opened.tensors() if tensor.name == "whole")
    assert _read(opened, whole, whole.nbytes) == torch.arange(60.0).numpy().tobytes()
