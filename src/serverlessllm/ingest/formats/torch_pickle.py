# SPDX-License-Identifier: Apache-2.0
"""One PyTorch `.bin` or `.pt` file: unpickled with weights only, mapped where the file allows it.

torch is imported when such a file is met. Nothing but tensors and plain containers is ever built: a pickle that
asks for more is refused before it runs. Knows one file; `hf_directory.py` knows names and shards.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.base import SourceTensor

if TYPE_CHECKING:
    import torch

_ZIP_MAGIC: Final = b"PK"
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
        self._tensors: dict[str, torch.Tensor] = {}
        for name, value in _state_dict(_load(path), path).items():
            self._tensors[name] = _checked(name, value, path)

    def tensors(self) -> list[SourceTensor]:
        """In the state dict's order."""
        return [SourceTensor(name, _dtype(t), tuple(t.shape)) for name, t in self._tensors.items()]

    def read_into(self, name: str, view: memoryview) -> None:
        """Copy the tensor, made contiguous."""
        import torch

        flat = self._tensors[name].contiguous().reshape(-1).view(torch.uint8)
        torch.frombuffer(view, dtype=torch.uint8).copy_(flat)


def _load(path: Path) -> object:
    """Raises CheckpointFormatError."""
    import torch

    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
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
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
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
