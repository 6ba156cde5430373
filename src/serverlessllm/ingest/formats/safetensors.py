# SPDX-License-Identifier: Apache-2.0
"""One safetensors file: the header parsed strictly, tensors read as raw byte ranges.

Knows the file format alone; `hf_directory.py` knows names and shards.
Source: https://github.com/huggingface/safetensors#format. Ours reads with `pread` into the caller's buffer, so
that nothing is mapped or copied twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.strict_json import Fields, check_integer, check_text, loads_strict
from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.base import SourceTensor
from serverlessllm.ingest.formats.file_range import read_range

_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000
_DTYPES: Final = {
    "F64": "f64",
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "F8_E4M3": "f8_e4m3",
    "F8_E5M2": "f8_e5m2",
    "I64": "i64",
    "I32": "i32",
    "I16": "i16",
    "I8": "i8",
    "U8": "u8",
    "BOOL": "bool",
}


@dataclass(frozen=True, slots=True)
class _Range:
    tensor: SourceTensor
    start: int  # absolute


class SafetensorsFile:
    """The tensors of one file."""

    def __init__(self, path: Path) -> None:
        """Parse the header.

        Raises: CheckpointFormatError naming the tensor or field; UnsupportedCheckpointError for a dtype that
        the artifact format does not have.
        """
        self._path = path
        header, data_start = _read_header(path)
        self._ranges = _parse_ranges(header, path, data_start)

    def tensors(self) -> list[SourceTensor]:
        """In file order."""
        return [found.tensor for found in self._ranges.values()]

    def read_into(self, name: str, view: memoryview, offset: int = 0) -> None:
        """Raises CorruptDataError if the file was cut meanwhile."""
        read_range(self._path, self._ranges[name].start + offset, view, name)


def _read_header(path: Path) -> tuple[object, int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(_LENGTH_BYTES)
        nbytes = int.from_bytes(prefix, "little")
        if len(prefix) < _LENGTH_BYTES:
            raise CheckpointFormatError(f"{path}: too short for a safetensors file", param=path.name)
        if nbytes > _MAX_HEADER_BYTES or _LENGTH_BYTES + nbytes > size:
            raise CheckpointFormatError(
                f"{path}: header of {nbytes} bytes in a file of {size}: truncated, or not safetensors",
                param=path.name,
            )
        return loads_strict(file.read(nbytes), what=path.name), _LENGTH_BYTES + nbytes


def _parse_ranges(header: object, path: Path, data_start: int) -> dict[str, _Range]:
    fields = Fields(header, path.name)
    members = dict(fields.rest())
    members.pop("__metadata__", None)
    if len(members) > spec.MAX_NUM_TENSORS:
        raise CheckpointFormatError(f"{path}: {len(members)} tensors", param=path.name)
    ranges = [_parse_range(name, value, path, data_start) for name, value in members.items()]
    ranges.sort(key=lambda found: (found.start, found.tensor.nbytes))
    end = data_start
    for found in ranges:
        if found.start != end:
            problem = "overlaps another" if found.start < end else "leaves a hole before it"
            raise CheckpointFormatError(
                f"{path}: tensor {found.tensor.name!r} {problem}", param=found.tensor.name
            )
        end = found.start + found.tensor.nbytes
    if end != path.stat().st_size:
        raise CheckpointFormatError(
            f"{path}: the header describes {end} bytes, the file has {path.stat().st_size}", param=path.name
        )
    return {found.tensor.name: found for found in ranges}


def _parse_range(name: str, value: object, path: Path, data_start: int) -> _Range:
    where = f"{path.name}:{name[:80]}"
    check_text(name, path.name, max_bytes=spec.MAX_NAME_BYTES)
    fields = Fields(value, where)
    dtype = fields.text("dtype", max_bytes=16)
    if dtype not in _DTYPES:
        raise UnsupportedCheckpointError(f"{where}.dtype: {dtype!r} is not read", param=f"{where}.dtype")
    shape = tuple(
        check_integer(size, item, low=0, high=spec.MAX_WEIGHTS_BYTES)
        for item, size in fields.items("shape", max_items=spec.MAX_RANK)
    )
    offsets = [
        check_integer(offset, item, low=0, high=spec.MAX_WEIGHTS_BYTES)
        for item, offset in fields.items("data_offsets", max_items=2)
    ]
    tensor = SourceTensor(name, _DTYPES[dtype], shape)
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * spec.DTYPE_BYTES[_DTYPES[dtype]]:
        raise CheckpointFormatError(
            f"{where}.data_offsets: {offsets} do not fit {dtype} of shape {list(shape)}",
            param=f"{where}.data_offsets",
        )
    return _Range(tensor, data_start + offsets[0])
