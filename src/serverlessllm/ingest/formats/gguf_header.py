# SPDX-License-Identifier: Apache-2.0
"""Read a GGUF file's metadata and tensor table, trusting nothing in it.

Knows the container (versions 2 and 3, little-endian), not what the keys mean.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package has a reader too; it
believes counts and lengths, so that a few hostile bytes make it allocate without bound.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import gguf

from serverlessllm.checkpoint.spec import MAX_NAME_BYTES, MAX_NUM_TENSORS, MAX_WEIGHTS_BYTES
from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_MAX_RANK: Final = 4
_MAX_KEYS: Final = 1 << 16
_MAX_STRING_BYTES: Final = 16 << 20
_MAX_NESTING: Final = 2
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One row of the tensor table. `shape` is row-major (the file's order reversed); `offset` is absolute."""

    name: str
    type: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A parsed header."""

    path: Path
    metadata: dict[str, object]
    tensors: dict[str, GgufTensor]


def parse_gguf(path: Path) -> GgufFile:
    """Read the header.

    Raises: CheckpointFormatError naming what is wrong; UnsupportedCheckpointError for another version, byte
    order or tensor type.
    """
    with path.open("rb") as file:
        return _parse(_Cursor(file, path))


def _parse(cursor: _Cursor) -> GgufFile:
    path = cursor.path
    if cursor.take(4) != MAGIC:
        raise CheckpointFormatError(f"{path}: no GGUF magic", param=path.name)
    version = cursor.scalar("I")
    if version not in _VERSIONS:
        raise UnsupportedCheckpointError(
            f"{path}: GGUF version {version} (or big-endian); versions 2 and 3, little-endian, are read",
            param="GGUF.version",
        )
    num_tensors = cursor.count("Q", MAX_NUM_TENSORS, "GGUF.tensor_count")
    num_keys = cursor.count("Q", _MAX_KEYS, "GGUF.kv_count")
    metadata = _read_metadata(cursor, num_keys)
    return GgufFile(path, metadata, _read_tensors(cursor, num_tensors, metadata))


class _Cursor:
    """Bounds-checked reading, front to back."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self.path = path
        self.size = path.stat().st_size
        self.position = 0

    def fail(self, problem: str, param: str | None = None) -> CheckpointFormatError:
        return CheckpointFormatError(f"{self.path}: {problem}", param=param or self.path.name)

    def take(self, nbytes: int) -> bytes:
        end = self.position + nbytes
        taken = self._file.read(nbytes) if end <= self.size else b""
        if len(taken) != nbytes:
            raise self.fail(f"truncated: wants {nbytes} bytes at {self.position} of {self.size}")
        self.position = end
        return taken

    def scalar(self, code: str) -> int:
        return int(struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0])

    def count(self, code: str, bound: int, param: str) -> int:
        value = self.scalar(code)
        if value > bound:
            raise self.fail(f"{param}: {value} exceeds the bound of {bound}", param)
        return value

    def text(self, what: str, max_bytes: int = _MAX_STRING_BYTES) -> str:
        nbytes = self.count("Q", max_bytes, what)
        try:
            return self.take(nbytes).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what}: not UTF-8", what) from error

    def value(self, kind: int, key: str, depth: int = 0) -> object:
        """One metadata value of GGUF type `kind`."""
        if kind == _STRING:
            return self.text(key)
        if kind in _SCALARS:
            (value,) = struct.unpack(f"<{_SCALARS[kind]}", self.take(struct.calcsize(f"<{_SCALARS[kind]}")))
            return bool(value) if kind == _BOOL else value
        if kind != _ARRAY or depth >= _MAX_NESTING:
            raise self.fail(f"{key}: unknown value type {kind}", key)
        item_kind = self.scalar("I")
        if item_kind in _SCALARS:
            size = struct.calcsize(f"<{_SCALARS[item_kind]}")
            num = self.count("Q", self.size // size, key)
            return list(struct.unpack(f"<{num}{_SCALARS[item_kind]}", self.take(num * size)))
        num = self.count("Q", self.size // 8, key)
        return [self.value(item_kind, key, depth + 1) for _ in range(num)]


def _read_metadata(cursor: _Cursor, num_keys: int) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for _ in range(num_keys):
        key = cursor.text("metadata key", MAX_NAME_BYTES)
        if key in metadata:
            raise cursor.fail(f"metadata key {key!r} appears twice", key)
        metadata[key] = cursor.value(cursor.scalar("I"), key)
    return metadata


def _read_tensors(cursor: _Cursor, num_tensors: int, metadata: dict[str, object]) -> dict[str, GgufTensor]:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment: {alignment!r} is not a power of two", "general.alignment")
    rows: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(num_tensors):
        name = cursor.text("tensor name", MAX_NAME_BYTES)
        rank = cursor.count("I", _MAX_RANK, name)
        shape = tuple(cursor.count("Q", MAX_WEIGHTS_BYTES, name) for _ in range(rank))[::-1]
        rows.append((name, shape, cursor.scalar("I"), cursor.scalar("Q")))
    start = -(-cursor.position // alignment) * alignment
    found: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in rows:
        if name in found:
            raise cursor.fail(f"tensor {name!r} appears twice", name)
        if offset % alignment:
            raise cursor.fail(f"tensor {name!r}: offset {offset} is not a multiple of {alignment}", name)
        nbytes = _tensor_nbytes(cursor, name, shape, kind)
        if start + offset + nbytes > cursor.size:
            raise cursor.fail(
                f"truncated: tensor {name!r} ends at {start + offset + nbytes} of {cursor.size}", name
            )
        found[name] = GgufTensor(name, kind, shape, start + offset, nbytes)
    return found


def _tensor_nbytes(cursor: _Cursor, name: str, shape: tuple[int, ...], kind: int) -> int:
    try:
        block_items, block_nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise UnsupportedCheckpointError(
            f"{cursor.path}: tensor {name!r} has unknown GGML type {kind}", param=name
        ) from None
    if not shape or 0 in shape or shape[-1] % block_items:
        raise cursor.fail(f"tensor {name!r}: shape {list(shape)} does not fit blocks of {block_items}", name)
    return int(math.prod(shape) // block_items * block_nbytes)
