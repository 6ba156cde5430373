# SPDX-License-Identifier: Apache-2.0
"""Hugging Face directories, byte for byte: one file or many, safetensors or PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import save_file

from serverlessllm.errors import CheckpointFormatError, CorruptDataError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.base import Source
from serverlessllm.ingest.formats.registry import open_source
from support.tiny_checkpoints import CONFIG, tiny_tensors, write_hf_directory

Arrays = dict[str, npt.NDArray[Any]]


def _read(source: Source) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for tensor in source.tensors():
        data = bytearray(tensor.nbytes)
        source.read_into(tensor.name, memoryview(data))
        found[tensor.name] = bytes(data)
    return found


def _expected() -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in tiny_tensors().items()}


def _write_shards(directory: Path, suffix: str) -> None:
    """Two weight files and the index that names them."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    arrays, weight_map = tiny_tensors(), {}
    for part in range(2):
        name = f"part-{part}{suffix}"
        chosen: Arrays = dict(list(arrays.items())[part::2])
        weight_map.update(dict.fromkeys(chosen, name))
        if suffix == ".safetensors":
            save_file(chosen, directory / name)
        else:
            torch.save({key: torch.from_numpy(value) for key, value in chosen.items()}, directory / name)
    index = "model.safetensors.index.json" if suffix == ".safetensors" else "pytorch_model.bin.index.json"
    (directory / index).write_text(json.dumps({"weight_map": weight_map}))


def test_single_safetensors_reads_byte_for_byte(tmp_path: Path) -> None:
    source = open_source(write_hf_directory(tmp_path))
    assert _read(source) == _expected()
    assert source.config()["model_type"] == "llama"


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_sharded_weights_read_like_one_file(tmp_path: Path, suffix: str) -> None:
    _write_shards(tmp_path / "model", suffix)
    assert _read(open_source(tmp_path / "model")) == _expected()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_read_in_both_containers(tmp_path: Path, name: str, zipped: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    state = {key: torch.from_numpy(value) for key, value in tiny_tensors().items()}
    torch.save({"state_dict": state}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert _read(open_source(tmp_path / name)) == _expected()


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool]
)
def test_torch_dtypes_keep_their_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    (tmp_path / "config.json").write_text("{}")
    torch.save({"w": tensor, "t": tensor.t(), "s": tensor[0, 1]}, tmp_path / "pytorch_model.bin")
    found = _read(open_source(tmp_path))
    assert found["w"] == tensor.view(torch.uint8).numpy().tobytes()
    assert found["t"] == tensor.t().contiguous().view(torch.uint8).numpy().tobytes()
    assert len(found["s"]) == dtype.itemsize


def test_safetensors_scalars_and_bf16_keep_their_bits(tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_torch

    (tmp_path / "config.json").write_text("{}")
    tensors = {"s": torch.tensor(2.5), "w": torch.randn(3, 5).to(torch.bfloat16)}
    save_torch(tensors, tmp_path / "model.safetensors")
    found = _read(open_source(tmp_path))
    assert np.frombuffer(found["s"], np.float32).tolist() == [2.5]
    assert found["w"] == tensors["w"].view(torch.uint8).numpy().tobytes()


def test_missing_shard_file_and_missing_tensor_are_named(tmp_path: Path) -> None:
    _write_shards(tmp_path / "model", ".safetensors")
    index = tmp_path / "model" / "model.safetensors.index.json"
    tree = json.loads(index.read_text())
    tree["weight_map"]["extra.weight"] = "part-1.safetensors"
    index.write_text(json.dumps(tree))
    with pytest.raises(CorruptDataError, match=r"'extra\.weight' is missing"):
        open_source(tmp_path / "model")
    (tmp_path / "model" / "part-1.safetensors").unlink()
    with pytest.raises(CorruptDataError, match=r"part-1\.safetensors is missing"):
        open_source(tmp_path / "model")


def test_shard_index_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    _write_shards(tmp_path / "model", ".safetensors")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../outside.safetensors"}}))
    with pytest.raises(CheckpointFormatError, match="outside") as caught:
        open_source(tmp_path / "model")
    assert caught.value.param == "weight_map.w"


def test_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    _write_shards(tmp_path / "model", ".safetensors")
    save_file(tiny_tensors(), tmp_path / "model" / "part-0.safetensors")
    with pytest.raises(CheckpointFormatError, match="is in two files"):
        open_source(tmp_path / "model")


def test_directory_without_weights_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsupportedCheckpointError, match=r"model\.safetensors"):
        open_source(tmp_path)
