# SPDX-License-Identifier: Apache-2.0
"""Source checkpoints that lie, are cut, or attack: clear errors, nothing run, nothing left behind."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serverlessllm.errors import CheckpointError, CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.ingest.convert import convert
from serverlessllm.ingest.formats.gguf_header import parse_gguf
from serverlessllm.ingest.formats.registry import open_source
from serverlessllm.ingest.formats.safetensors import SafetensorsFile
from support.tiny_checkpoints import CONFIG, write_hf_directory, write_tiny_gguf


def _safetensors(path: Path, header: object, data: bytes, *, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def _entry(start: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end], **changes}


SAFETENSORS: dict[str, tuple[object, str]] = {
    "overlap": ({"a": _entry(0, 4), "b": _entry(2, 4)}, "overlaps"),
    "hole": ({"a": _entry(0, 1), "b": _entry(2, 4)}, "leaves a hole"),
    "too short": ({"a": _entry(0, 5)}, "describes"),
    "too long": ({"a": _entry(0, 3)}, "describes"),
    "shape lies": ({"a": _entry(0, 4, shape=[5])}, "do not fit"),
    "backwards": ({"a": _entry(0, 4, data_offsets=[4, 0])}, "do not fit"),
    "one offset": ({"a": _entry(0, 4, data_offsets=[0])}, "do not fit"),
    "huge shape": ({"a": _entry(0, 4, shape=[1 << 60, 1 << 60])}, "out of range"),
    "negative shape": ({"a": _entry(0, 4, shape=[-2, -2])}, "out of range"),
    "no dtype": ({"a": {"shape": [4], "data_offsets": [0, 4]}}, "dtype: is missing"),
    "not an object": ([1, 2], "expected an object"),
    "entry not an object": ({"a": 4}, "expected an object"),
    "duplicate key": (b'{"a":1,"a":1}', "appears twice"),
    "not json": (b"{", "not valid JSON"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_lying_safetensors_header_is_refused(tmp_path: Path, case: str) -> None:
    header, says = SAFETENSORS[case]
    with pytest.raises(CheckpointFormatError, match=says):
        SafetensorsFile(_safetensors(tmp_path / "model.safetensors", header, b"\0" * 4))


def test_unknown_safetensors_dtype_is_unsupported(tmp_path: Path) -> None:
    header = {"a": _entry(0, 4, dtype="F4")}
    with pytest.raises(UnsupportedCheckpointError, match="F4"):
        SafetensorsFile(_safetensors(tmp_path / "model.safetensors", header, b"\0" * 4))


@pytest.mark.parametrize("length", [1 << 63, 100_000_001, 5000])
def test_header_length_beyond_the_file_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(CheckpointFormatError, match="truncated, or not safetensors"):
        SafetensorsFile(_safetensors(tmp_path / "m.safetensors", {}, b"", length=length))


def test_every_truncation_of_safetensors_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    path = write_hf_directory(tmp_path / "hf") / "model.safetensors"
    whole = path.read_bytes()
    for size in range(0, len(whole), 41):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            convert(tmp_path / "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Attack:
    """Runs a command when a naive unpickler meets it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    trace = tmp_path / "owned"
    state = {"w": torch.ones(2), "x": _Attack(trace)}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointFormatError, match="Nothing of it was run") as caught:
        open_source(tmp_path)
    assert caught.value.param == "pytorch_model.bin"
    assert not trace.exists()


def test_bare_pickle_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(_Attack(tmp_path / "owned"), protocol=2))
    with pytest.raises(CheckpointFormatError):
        open_source(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_every_truncation_of_a_torch_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    path = tmp_path / "pytorch_model.bin"
    for zipped in (True, False):
        torch.save({"w": torch.ones(64)}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for size in range(0, len(whole) - 1, 97):
            path.write_bytes(whole[:size])
            with pytest.raises(CheckpointError):
                open_source(tmp_path)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"w": 3}, "not a tensor"),
        ({1: torch.ones(1)}, "not a tensor"),
        ([torch.ones(1)], "expected a dict"),
        ({"w": torch.ones(1).expand(1 << 40)}, "larger than its storage"),
    ],
)
def test_state_dicts_of_other_things_are_refused(tmp_path: Path, state: object, says: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointFormatError, match=says):
        open_source(tmp_path)


def _patched_gguf(path: Path, offset: int, code: str, value: int) -> Path:
    data = bytearray(write_tiny_gguf(path).read_bytes())
    struct.pack_into(code, data, offset, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("offset", "code", "value", "says"),
    [
        (0, "<I", 0, "no GGUF magic"),
        (8, "<Q", 1 << 62, "tensor_count: .* exceeds"),
        (16, "<Q", 1 << 62, "kv_count: .* exceeds"),
        (24, "<Q", 1 << 62, "metadata key: .* exceeds"),
    ],
)
def test_lying_gguf_counts_are_refused(tmp_path: Path, offset: int, code: str, value: int, says: str) -> None:
    with pytest.raises(CheckpointFormatError, match=says):
        parse_gguf(_patched_gguf(tmp_path / "m.gguf", offset, code, value))


@pytest.mark.parametrize("version", [1, 4, 3 << 24])
def test_other_gguf_versions_and_byte_orders_are_unsupported(tmp_path: Path, version: int) -> None:
    with pytest.raises(UnsupportedCheckpointError, match="GGUF version"):
        parse_gguf(_patched_gguf(tmp_path / "m.gguf", 4, "<I", version))


def test_every_truncation_of_gguf_is_refused(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    whole = path.read_bytes()
    for size in [*range(0, 2000, 13), *range(2000, len(whole) - 300, 997)]:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            parse_gguf(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 9000), put=st.binary(min_size=1, max_size=8))
def test_mutated_gguf_converts_or_gives_a_checkpoint_error(tmp_path: Path, at: int, put: bytes) -> None:
    path = tmp_path / "m.gguf"
    data = bytearray(_tiny_gguf(path))
    data[at : at + len(put)] = put
    path.write_bytes(data)
    try:
        source = open_source(path)
        source.files()
        for tensor in source.tensors():
            source.read_into(tensor.name, memoryview(bytearray(tensor.nbytes)))
    except CheckpointError:
        pass


_cached: dict[str, bytes] = {}


def _tiny_gguf(path: Path) -> bytes:
    if "m" not in _cached:
        _cached["m"] = write_tiny_gguf(path).read_bytes()
    return _cached["m"]


@pytest.mark.parametrize("config", ["", "[]", "{", '{"a":' * 10_000])
def test_config_that_is_no_object_is_refused(tmp_path: Path, config: str) -> None:
    write_hf_directory(tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text(config)
    with pytest.raises(CheckpointFormatError, match=r"config\.json"):
        convert(tmp_path / "hf", tmp_path / "out")
