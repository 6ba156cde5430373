# SPDX-License-Identifier: Apache-2.0
"""What this node's disk holds of one artifact when a load begins: whole files, and chunks of half-fetched ones.

Opens files and looks at their sizes; reads no bytes and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from serverlessllm.errors import CorruptDataError
from serverlessllm.loader.plan import ChunkKey, LoadableIndex, chunk_keys, file_sizes
from serverlessllm.loader.transfer.pipeline import ReadSource

SourceOpener = Callable[[Path], ReadSource]


class LocalCopy:
    """Open sources of the files that can be read here; `close` it when no read is in progress.

    `sources`: file → source. `chunks`: what they have. `problems`: file → why it is not wholly here.
    """

    def __init__(self, directory: Path, index: LoadableIndex, open_source: SourceOpener) -> None:
        """Raises: ModelLoadError for a file that is here and cannot be opened."""
        self.directory = directory
        self.sizes = file_sizes(index)
        self.sources: dict[str, ReadSource] = {}
        self.paths: dict[str, Path] = {}
        self.chunks: set[ChunkKey] = set()
        self.problems: dict[str, CorruptDataError] = {}
        self._open_source = open_source
        try:
            for name, nbytes in self.sizes.items():
                self._open(index, name, nbytes)
        except BaseException:
            self.close()
            raise

    def _open(self, index: LoadableIndex, name: str, nbytes: int) -> None:
        path = self.directory / name
        try:
            source = self._open_source(path)
        except CorruptDataError as problem:
            self.problems[name] = problem
            return
        if source.size < nbytes:
            self.problems[name] = CorruptDataError(
                f"{path} is truncated: it has {source.size} of {nbytes} bytes; convert or fetch the model again",
                param=name,
                source="agent",
            )
            source.close()
            return
        self._add(name, path, source, chunk_keys(index, name))

    def add_partial(self, name: str, path: Path, chunks: Iterable[ChunkKey]) -> None:
        """A half-fetched file of which these chunks are right. For files that are not wholly here."""
        chunks = set(chunks)
        if name in self.problems and chunks:
            self._add(name, path, self._open_source(path), chunks)

    def _add(self, name: str, path: Path, source: ReadSource, chunks: Iterable[ChunkKey]) -> None:
        self.sources[name] = source
        self.paths[name] = path
        self.chunks.update(chunks)

    def close(self) -> None:
        """Close the files. Idempotent."""
        for source in self.sources.values():
            source.close()
        self.sources = {}
