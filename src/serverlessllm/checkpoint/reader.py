# SPDX-License-Identifier: Apache-2.0
"""Open an artifact: index checked as a whole, sizes against the disk, small files against their digests.

Weights are mapped, not read; their bytes are checked by `verify.py`. Knows no engine and no arena.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path

from blake3 import blake3

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.index import CheckpointIndex
from serverlessllm.checkpoint.layout import model_layout
from serverlessllm.errors import CheckpointFormatError, CorruptDataError, NotFoundError
from serverlessllm.wire.worker import ModelLayout


class Artifact:
    """One immutable artifact on disk. Safe to share between threads; holds no descriptors, only mappings."""

    def __init__(
        self, directory: Path, index: CheckpointIndex, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Use `open`, which checks the directory. `files` are small files of one that is still being fetched."""
        self.directory = directory
        self.index = index
        self._files = dict(files or {})
        self._maps: dict[str, memoryview] = {}

    @classmethod
    def open(cls, directory: Path, *, expect_revision: str | None = None) -> Artifact:
        """Read and check the index, and the sizes of all files that it names.

        Raises: CheckpointFormatError, UnsupportedCheckpointError for the index; CorruptDataError for another
        revision than expected, a missing file or one of another size.
        """
        index = CheckpointIndex.parse(_read_index(directory / spec.INDEX_NAME))
        if expect_revision is not None and index.revision != expect_revision:
            raise CorruptDataError(
                f"revision: {directory} holds {index.revision}, not {expect_revision}; fetch it again",
                param="revision",
            )
        for weights in index.weight_files:
            _check_size(directory / weights.name, weights.nbytes)
        for entry in index.files:
            _check_size(directory / entry.name, entry.nbytes)
        return cls(directory, index)

    @property
    def revision(self) -> str:
        """32 hex digits; the name under which the artifact is known."""
        return self.index.revision

    def config(self) -> dict[str, object]:
        """`config.json`. Raises CheckpointFormatError if it is not a JSON object."""
        return parse_config(self.file(spec.CONFIG_NAME))

    def file(self, name: str) -> bytes:
        """A tokenizer or configuration file, checked against its digest.

        Raises: NotFoundError if the index does not name it; CorruptDataError if the bytes differ.
        """
        entry = next((entry for entry in self.index.files if entry.name == name), None)
        if entry is None:
            raise NotFoundError(f"artifact {self.revision} has no file {name!r}", param=name)
        data = self._files[name] if name in self._files else (self.directory / name).read_bytes()
        if blake3(data).hexdigest() != entry.blake3:
            raise CorruptDataError(f"{self.directory / name}: bytes differ from their digest", param=name)
        return data

    def small_files(self) -> dict[str, bytes]:
        """The index and every tokenizer or configuration file, by name. Raises as `file`."""
        files = {entry.name: self.file(entry.name) for entry in self.index.files}
        return {spec.INDEX_NAME: self.index.to_bytes(), **files}

    def has_file(self, name: str) -> bool:
        """Whether the index names this file."""
        return any(entry.name == name for entry in self.index.files)

    def tensor(self, name: str) -> memoryview:
        """The tensor's bytes, mapped read-only; an alias gives its target's.

        Raises: NotFoundError for an unknown name.
        """
        try:
            entry = self.index.tensor(name)
        except KeyError:
            raise NotFoundError(f"artifact {self.revision} has no tensor {name!r}", param=name) from None
        raw = self.index.shard(entry.shard).raw
        start = raw.offset + entry.offset
        return self.weights(raw.file)[start : start + entry.nbytes]

    def weights(self, file_name: str) -> memoryview:
        """One `.bin` file, mapped read-only as a whole."""
        if file_name not in self._maps:
            with (self.directory / file_name).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[file_name] = memoryview(mapped)
        return self._maps[file_name]

    def layout(self) -> ModelLayout:
        """What an engine needs to build its views of the region."""
        return model_layout(self.index, self.config())


def parse_config(data: bytes) -> dict[str, object]:
    """Parse `config.json`, which others wrote: non-finite numbers occur there and are kept.

    Raises: CheckpointFormatError if it is not a JSON object.
    """
    try:
        config = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(
            f"{spec.CONFIG_NAME}: not valid JSON: {error}", param=spec.CONFIG_NAME
        ) from error
    if not isinstance(config, dict):
        raise CheckpointFormatError(f"{spec.CONFIG_NAME}: expected an object", param=spec.CONFIG_NAME)
    return config


def _read_index(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointFormatError(f"{path.parent} is not an artifact: no {path.name}", param=path.name)
    with path.open("rb") as file:
        return file.read(spec.MAX_INDEX_BYTES + 1)


def _check_size(path: Path, nbytes: int) -> None:
    if not path.is_file():
        raise CorruptDataError(f"{path} is missing; convert or fetch the artifact again", param=path.name)
    found = path.stat().st_size
    if found != nbytes:
        raise CorruptDataError(f"{path} has {found} bytes, the index says {nbytes}", param=path.name)
