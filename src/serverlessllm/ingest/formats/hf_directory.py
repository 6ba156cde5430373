# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face directory: config and tokenizer files beside safetensors or PyTorch weights, one file or many.

Byte for byte. Knows file names and the shard index; the files themselves are read by `safetensors.py` and
`torch_pickle.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.reader import parse_config
from serverlessllm.checkpoint.strict_json import check_text, loads_strict
from serverlessllm.errors import CheckpointFormatError, CorruptDataError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.base import SourceTensor, TensorReader
from serverlessllm.ingest.formats.safetensors import SafetensorsFile

_WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")
_TORCH_WEIGHTS: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.pt", "model.pt")
_KEPT: Final = (
    spec.CONFIG_NAME,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "config_sentence_transformers.json",
)
_POOLING: Final = "Pooling"
"""The folder `<n>_Pooling` of a sentence-transformers model; an artifact's files have plain names."""
_MAX_SHARD_INDEX_BYTES: Final = 64 << 20


class HfDirectorySource:
    """Reads one directory; `weights_file` names the weights where they have an unusual name."""

    default_dtype: str | None = None
    digest: str | None = None
    aliases: Mapping[str, str] = {}

    def __init__(self, directory: Path, *, weights_file: Path | None = None) -> None:
        """Parse every header. Raises CheckpointFormatError, CorruptDataError, UnsupportedCheckpointError."""
        self._directory = directory
        weights = weights_file or _find_weights(directory)
        self._reader_of: dict[str, TensorReader] = {}
        self._tensors: list[SourceTensor] = []
        if weights.name.endswith(".index.json"):
            self._add_shards(weights)
        else:
            self._add_file(weights)

    def config(self) -> dict[str, object]:
        """`config.json`."""
        return parse_config(self._read_file(spec.CONFIG_NAME))

    def files(self) -> dict[str, bytes]:
        """The well-known configuration and tokenizer files that are there."""
        found = {name: self._read_file(name) for name in _KEPT if (self._directory / name).is_file()}
        for path in sorted(self._directory.glob(f"*_{_POOLING}/config.json")):
            found["pooling_config.json"] = self._read_file(str(path.relative_to(self._directory)))
        return found

    def tensors(self) -> list[SourceTensor]:
        """Of all weights files."""
        return self._tensors

    def read_into(self, name: str, view: memoryview, offset: int = 0) -> None:
        """From the file that holds it."""
        self._reader_of[name].read_into(name, view, offset)

    def _read_file(self, name: str) -> bytes:
        path = self._directory / name
        if (size := path.stat().st_size) > spec.MAX_FILE_BYTES:
            raise CheckpointFormatError(f"{path}: {size} bytes exceed {spec.MAX_FILE_BYTES}", param=name)
        return path.read_bytes()

    def _add_file(self, path: Path) -> set[str]:
        reader = _open_weights(path)
        tensors = reader.tensors()
        for tensor in tensors:
            if tensor.name in self._reader_of:
                raise CheckpointFormatError(
                    f"{path}: tensor {tensor.name!r} is in two files", param=tensor.name
                )
            self._reader_of[tensor.name] = reader
        self._tensors += tensors
        return {tensor.name for tensor in tensors}

    def _add_shards(self, index_path: Path) -> None:
        """Every file that the index names, and in it the tensors that it promises."""
        promised = _read_weight_map(index_path)
        for file_name, names in sorted(promised.items()):
            path = self._directory / file_name
            if not path.is_file():
                raise CorruptDataError(f"{path} is missing; {index_path.name} names it", param=file_name)
            if missing := names - self._add_file(path):
                raise CorruptDataError(
                    f"{path}: tensor {min(missing)!r} is missing; {index_path.name} says it is there",
                    param=min(missing),
                )


def _find_weights(directory: Path) -> Path:
    for name in (*_WEIGHTS, *_TORCH_WEIGHTS):
        if (directory / name).is_file():
            return directory / name
    found = sorted(directory.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    raise UnsupportedCheckpointError(
        f"{directory} has a {spec.CONFIG_NAME} but no weights: expected one of "
        f"{', '.join((*_WEIGHTS, *_TORCH_WEIGHTS))}",
        param="source",
    )


def _open_weights(path: Path) -> TensorReader:
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    from serverlessllm.ingest.formats.torch_pickle import TorchPickleFile

    return TorchPickleFile(path)


def _read_weight_map(path: Path) -> dict[str, set[str]]:
    """File name → names of its tensors. Raises CheckpointFormatError, also for path-like file names."""
    if path.stat().st_size > _MAX_SHARD_INDEX_BYTES:
        raise CheckpointFormatError(f"{path}: larger than {_MAX_SHARD_INDEX_BYTES} bytes", param=path.name)
    index = loads_strict(path.read_bytes(), what=path.name)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointFormatError(f"{path}: weight_map: expected an object", param="weight_map")
    promised: dict[str, set[str]] = {}
    for tensor, file_name in weight_map.items():
        where = f"weight_map.{tensor[:80]}"
        name = check_text(file_name, where, max_bytes=spec.MAX_FILE_NAME_BYTES, pattern=spec.FILE_NAME)
        promised.setdefault(name, set()).add(tensor)
    return promised
