# SPDX-License-Identifier: Apache-2.0
"""What was read of artifacts once, so that waking a model whose bytes are in DRAM reads no file.

Artifacts are immutable and named by their content, so nothing here can become stale.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.wire.worker import ModelLayout

MAX_OPEN: Final = 256
"""Far more revisions than a node's DRAM holds; some 100 KB each."""


@dataclass(frozen=True, slots=True)
class OpenArtifact:
    """An artifact, its layout, and the size of its region. Holds no descriptors."""

    artifact: Artifact
    layout: ModelLayout
    nbytes: int

    @classmethod
    def read(cls, directory: Path, revision: str) -> OpenArtifact:
        """Blocks on files. Raises as `Artifact.open`."""
        artifact = Artifact.open(directory, expect_revision=revision)
        return cls(artifact, artifact.layout(), artifact.index.weights_nbytes)


class OpenArtifacts:
    """The most recently used ones, by revision. For one event loop."""

    def __init__(self, max_open: int = MAX_OPEN) -> None:
        self._max_open = max_open
        self._open: OrderedDict[str, OpenArtifact] = OrderedDict()

    async def open(self, directory: Path, revision: str) -> OpenArtifact:
        """The revision's artifact, read in a thread unless it is here. Raises as `Artifact.open`."""
        opened = self._open.get(revision)
        if opened is None or opened.artifact.directory != directory:
            opened = await asyncio.to_thread(OpenArtifact.read, directory, revision)
        self._open[revision] = opened
        self._open.move_to_end(revision)
        while len(self._open) > self._max_open:
            self._open.popitem(last=False)
        return opened
