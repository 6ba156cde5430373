# SPDX-License-Identifier: Apache-2.0
"""Which format a path holds, decided by content. Each format is imported when it is met, with what it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from serverlessllm.checkpoint.spec import CONFIG_NAME, INDEX_NAME
from serverlessllm.errors import CheckpointError, NotFoundError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.base import Source

ACCEPTED: Final = (
    "a directory with config.json and model.safetensors, model.safetensors.index.json, pytorch_model.bin or "
    "pytorch_model.bin.index.json; one such .safetensors, .bin or .pt file with config.json beside it; "
    "a .gguf file; a LoRA adapter (adapter_config.json, adapter_model.safetensors); an artifact (a directory with "
    "model.idx)"
)
_ADAPTER_CONFIG: Final = "adapter_config.json"


def open_source(path: Path) -> Source:
    """The checkpoint at `path`.

    Raises: NotFoundError if nothing is there; UnsupportedCheckpointError listing what is accepted;
    CheckpointFormatError, CorruptDataError if it is not what it claims; CheckpointError if it cannot be read.
    """
    if not path.exists():
        raise NotFoundError(f"source: {path} does not exist", param="source")
    try:
        return _opener(path)(path)
    except ModuleNotFoundError as error:
        raise UnsupportedCheckpointError(
            f"{path}: this format needs the package {error.name!r}; "
            "pip install 'serverlessllm[ingest,engine]'",
            param="source",
        ) from error
    except OSError as error:
        raise CheckpointError(f"source: cannot read {path}: {error.strerror}", param="source") from error


def _opener(path: Path) -> Callable[[Path], Source]:
    if path.is_dir():
        if (path / INDEX_NAME).is_file():
            return _open_artifact
        if (path / _ADAPTER_CONFIG).is_file() and not (path / CONFIG_NAME).is_file():
            return _open_adapter
        if (path / CONFIG_NAME).is_file():
            return _open_directory
        if len(found := sorted(path.glob("*.gguf"))) == 1:
            return lambda _: _open_gguf(found[0])
    elif path.is_file():
        if _starts_with(path, b"GGUF"):
            return _open_gguf
        if path.suffix in (".safetensors", ".bin", ".pt", ".pth") and (path.parent / CONFIG_NAME).is_file():
            return _open_weights_file
    raise UnsupportedCheckpointError(
        f"source: {path} is not a checkpoint. Accepted: {ACCEPTED}", param="source"
    )


def _open_artifact(path: Path) -> Source:
    from serverlessllm.ingest.formats.artifact import ArtifactSource

    return ArtifactSource(path)


def _open_directory(path: Path) -> Source:
    from serverlessllm.ingest.formats.hf_directory import HfDirectorySource

    return HfDirectorySource(path)


def _open_adapter(path: Path) -> Source:
    from serverlessllm.ingest.formats.peft import PeftSource

    return PeftSource(path)


def _open_weights_file(path: Path) -> Source:
    from serverlessllm.ingest.formats.hf_directory import HfDirectorySource

    return HfDirectorySource(path.parent, weights_file=path)


def _open_gguf(path: Path) -> Source:
    from serverlessllm.ingest.formats.gguf import GgufSource

    return GgufSource(path)


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
