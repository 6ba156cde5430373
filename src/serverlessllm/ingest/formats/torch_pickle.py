# SPDX-License-Identifier: Apache-2.0
"""One PyTorch `.bin` or `.pt` file: unpickled with weights only, bytes read where they lie in the file.

torch is imported when such a file is met. Nothing but tensors and plain containers is ever built: a pickle that
asks for more is refused before it runs. Knows one file; `hf_directory.py` knows names and shards.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.base import SourceTensor
from serverlessllm.ingest.formats.file_range import read_range

if TYPE_CHECKING:
    import torch

_LOCAL_HEADER: Final = struct.Struct("<26xHH")
"""Of a zip entry: lengths of its name and extra field, at its end."""
_DAMAGED: Final = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(AssertionError, EOFError, OSError, struct.error),
)
"""What torch raises for damaged files; its unpickler does not check what it stumbles on."""
_WRAPPERS: Final = ("state_dict", "model", "module")
_DTYPES: Final = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "f8_e4m3",
    "float8_e5m2": "f8_e5m2",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
    "bool": "bool",
}


class TorchPickleFile:
    """The tensors of one state dict."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointFormatError for a malicious, truncated or foreign pickle."""
        self._path = path
        self._tensors: dict[str, torch.Tensor] = {}
        self._offsets = _storage_offsets(path)
        for name, value in _state_dict(_load(path, is_lazy=self._offsets is not None), path).items():
            self._tensors[name] = _checked(name, value, path)

    def tensors(self) -> list[SourceTensor]:
        """In the state dict's order."""
        return [SourceTensor(name, _dtype(t), tuple(t.shape)) for name, t in self._tensors.items()]

    def read_into(self, name: str, view: memoryview, offset: int = 0) -> None:
        """Read the tensor's bytes, made contiguous; one that is not takes memory for its whole storage."""
        import torch

        tensor = self._tensors[name]
        start = self._file_offset(tensor)
        if start is not None and tensor.is_contiguous():
            first = start + int(tensor.storage_offset()) * tensor.element_size()
            read_range(self._path, first + offset, view, name)
            return
        if start is not None:
            tensor = self._materialised(tensor, start, name)
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        torch.frombuffer(view, dtype=torch.uint8).copy_(flat[offset : offset + len(view)])

    def _file_offset(self, tensor: torch.Tensor) -> int | None:
        """Where the tensor's storage begins in the file; None: its bytes are in memory.

        Raises: CheckpointFormatError if torch and the zip directory disagree, or the storage is shorter.
        """
        if self._offsets is None:
            return None
        storage = tensor.untyped_storage()
        offset = getattr(storage, "_checkpoint_offset", None)
        if offset is None or self._offsets.get(offset, -1) < storage.nbytes():
            raise CheckpointFormatError(f"{self._path}: a storage is not where it should be")
        return int(offset)

    def _materialised(self, tensor: torch.Tensor, start: int, name: str) -> torch.Tensor:
        import torch

        data = bytearray(tensor.untyped_storage().nbytes())
        read_range(self._path, start, memoryview(data), name)
        flat = torch.frombuffer(data, dtype=tensor.dtype)
        return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _storage_offsets(path: Path) -> dict[int, int] | None:
    """Offset in the file → bytes of every storage of a zip container; None: read the file as a whole.

    The whole is read of files from before PyTorch 1.6, which are no zip, of big-endian ones, and of compressed ones.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            found: dict[int, int] = {}
            for entry in archive.infolist():
                if entry.filename.endswith("/byteorder") and archive.read(entry) != b"little":
                    return None
                if entry.compress_type != zipfile.ZIP_STORED:
                    return None
                file.seek(entry.header_offset)
                name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                start = entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
                found[start] = entry.file_size
            return found
    except (zipfile.BadZipFile, struct.error):
        return None


def _load(path: Path, *, is_lazy: bool) -> object:
    """The unpickled state dict; `is_lazy`: tensors without bytes, which know where those are.

    Raises: CheckpointFormatError.
    """
    import torch

    try:
        return torch.load(path, map_location="meta" if is_lazy else "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0][:200]
        raise CheckpointFormatError(
            f"{path}: refused: this pickle holds more than tensors, or is damaged ({reason}). "
            "Nothing of it was run; convert it to safetensors where you trust it",
            param=path.name,
        ) from error
    except _DAMAGED as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointFormatError(
            f"{path}: not a readable PyTorch file: {reason}", param=path.name
        ) from error


def _state_dict(loaded: object, path: Path) -> Mapping[str, object]:
    """The dict of tensors itself, or the one under a well-known key."""
    if not isinstance(loaded, dict):
        raise CheckpointFormatError(f"{path}: expected a dict of tensors", param=path.name)
    for key in _WRAPPERS:
        if isinstance(inner := loaded.get(key), dict):
            return inner
    return loaded


def _checked(name: str, value: object, path: Path) -> torch.Tensor:
    import torch

    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        raise CheckpointFormatError(
            f"{path}: entry {str(name)[:80]!r} is {type(value).__name__}, not a tensor", param=path.name
        )
    tensor = value.detach()
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type not in ("cpu", "meta"):
        raise UnsupportedCheckpointError(f"{path}: tensor {name!r} is not a plain dense tensor", param=name)
    _dtype(tensor, name)
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointFormatError(f"{path}: tensor {name!r} is larger than its storage", param=name)
    return tensor


def _dtype(tensor: torch.Tensor, name: str = "") -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise UnsupportedCheckpointError(f"tensor {name!r}: dtype {dtype} is not read", param=name)
    return _DTYPES[dtype]
