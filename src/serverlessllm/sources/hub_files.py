# SPDX-License-Identifier: Apache-2.0
"""Which files of a repository a conversion needs: one copy of the weights, the tokenizer, the configs. Pure.

Repositories hold the same weights several times: as safetensors, as pickles, in the training framework's own form,
for other runtimes, in many quantisations. All of them would be gigabytes for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from serverlessllm.errors import CorruptDataError, InvalidRequestError
from serverlessllm.sources.base import RemoteFile

_WEIGHTS: Final = (
    ("model*.safetensors",),
    ("*.safetensors",),
    ("pytorch_model*.bin",),
    ("*.gguf",),
    ("*.pt", "*.bin"),
)
"""Forms of the weights, the best first. `.pth` is never taken: it duplicates one of these."""
_NO_WEIGHTS: Final = ("training_args.bin", "optimizer.*", "scheduler.*", "rng_state*", "consolidated*")
_BESIDE: Final = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICENSE*", "NOTICE*")
_POOLING: Final = "*_Pooling/config.json"
"""How an embedding model pools: the one file that is needed of a folder below."""


def needed_files(files: Sequence[RemoteFile], *, where: str, wanted: str = "") -> list[RemoteFile]:
    """The needed ones of `files`, sorted; folders below are other models' (`onnx/`, `original/`).

    A single file that was asked for by its name comes alone. Raises: CorruptDataError when no weights are there;
    InvalidRequestError when there are several GGUF files, of which one must be named.
    """
    if len(files) == 1 and files[0].name == wanted:
        return list(files)
    top = [file for file in files if "/" not in file.name]
    weights = _best_form(top)
    if not weights:
        raise CorruptDataError(f"{where} holds no weights that can be read", param="source")
    models = [file.name for file in weights if file.name.endswith(".gguf")]
    if len(models) > 1:
        raise InvalidRequestError(
            f"{where} holds several GGUF files: name one, e.g. {where}/{models[0]}", param="source"
        )
    beside = [file for file in top if file not in weights and _matches(file.name, _BESIDE)]
    beside += [file for file in files if file.name.count("/") == 1 and fnmatchcase(file.name, _POOLING)]
    if not weights[0].name.endswith(".safetensors"):
        beside = [file for file in beside if not file.name.endswith(".safetensors.index.json")]
    return sorted([*weights, *beside], key=lambda file: file.name)


def _best_form(files: Sequence[RemoteFile]) -> list[RemoteFile]:
    for patterns in _WEIGHTS:
        found = [
            file
            for file in files
            if _matches(file.name, patterns)
            and not (patterns != ("*.safetensors",) and _matches(file.name, _NO_WEIGHTS))
        ]
        if found:
            return found
    return []


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
