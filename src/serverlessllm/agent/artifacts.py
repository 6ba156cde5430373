# SPDX-License-Identifier: Apache-2.0
"""What was read of artifacts once, so that waking a model whose bytes are in DRAM reads no file.

Artifacts are immutable and named by their content, so nothing here can become stale.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.spec import INDEX_NAME
from serverlessllm.errors import CheckpointError
from serverlessllm.wire.worker import ModelLayout

MAX_OPEN: Final = 256
"""Far more revisions than a node's DRAM holds; some 100 KB each."""


ManifestFetcher = Callable[[str, Path, Sequence[str]], Awaitable[Artifact]]
"""(revision, directory, origins) → the artifact; `Loader.manifest`."""


@dataclass(frozen=True, slots=True)
class OpenArtifact:
    """An artifact, its layout, and the size of its region. Holds no descriptors."""

    artifact: Artifact
    layout: ModelLayout
    nbytes: int

    @classmethod
    def of(cls, artifact: Artifact) -> OpenArtifact:
        """Raises as `Artifact.layout`."""
        return cls(artifact, artifact.layout(), artifact.index.weights_nbytes)

    @classmethod
    def read(cls, directory: Path, revision: str, *, checks_files: bool = False) -> OpenArtifact:
        """Blocks on files; `checks_files` compares the small ones with their digests. Raises as `Artifact.open`."""
        artifact = Artifact.open(directory, expect_revision=revision)
        if checks_files:
            artifact.small_files()
        return cls.of(artifact)


class OpenArtifacts:
    """The most recently used ones, by revision. For one event loop."""

    def __init__(self, fetch: ManifestFetcher, max_open: int = MAX_OPEN) -> None:
        """`fetch` brings the small files of an artifact that is not, or not wholly, on disk."""
        self._fetch = fetch
        self._max_open = max_open
        self._open: OrderedDict[str, OpenArtifact] = OrderedDict()

    async def open(self, directory: Path, revision: str, origins: Sequence[str] = ()) -> OpenArtifact:
        """The revision's artifact, read in a thread unless it is here; what the disk lacks comes from `origins`.

        Raises as `Artifact.open`, and with origins as `Loader.manifest`.
        """
        opened = self._open.get(revision)
        if opened is None or opened.artifact.directory != directory:
            opened = await self._read(directory, revision, origins)
        elif origins and not (directory / INDEX_NAME).is_file():
            opened = None  # evicted from the disk since
        if opened is None:
            # Not kept: it holds its small files in memory, and they are on disk as soon as it was loaded.
            self._open.pop(revision, None)
            return OpenArtifact.of(await self._fetch(revision, directory, origins))
        self._open[revision] = opened
        self._open.move_to_end(revision)
        while len(self._open) > self._max_open:
            self._open.popitem(last=False)
        return opened

    async def _read(self, directory: Path, revision: str, origins: Sequence[str]) -> OpenArtifact | None:
        """From disk; None when it is not, or not wholly, right there and an origin can help."""
        try:
            return await asyncio.to_thread(OpenArtifact.read, directory, revision, checks_files=bool(origins))
        except (CheckpointError, OSError):
            if origins:
                return None
            raise
