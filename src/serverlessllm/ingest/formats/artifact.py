# SPDX-License-Identifier: Apache-2.0
"""An artifact as a source: arranged anew, byte for byte.

Verified first, so that damage is never given new digests. Knows nothing of how it will be arranged.
"""

from __future__ import annotations

from pathlib import Path

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.verify import verify
from serverlessllm.ingest.formats.base import SourceTensor
from serverlessllm.ingest.formats.file_range import read_range


class ArtifactSource:
    """Reads one artifact directory."""

    default_dtype: str | None = None

    def __init__(self, path: Path) -> None:
        """Open and verify. Raises CheckpointFormatError, CorruptDataError."""
        self._artifact = Artifact.open(path)
        verify(self._artifact)
        self.digest: str | None = self._artifact.index.source_digest
        self.aliases = self._artifact.index.aliases

    def config(self) -> dict[str, object]:
        """`config.json`."""
        return self._artifact.config()

    def files(self) -> dict[str, bytes]:
        """All files beside the weights."""
        return {entry.name: self._artifact.file(entry.name) for entry in self._artifact.index.files}

    def tensors(self) -> list[SourceTensor]:
        """All tensors, in file order."""
        return [SourceTensor(entry.name, entry.dtype, entry.shape) for entry in self._artifact.index.tensors]

    def read_into(self, name: str, view: memoryview, offset: int = 0) -> None:
        """Read the tensor's bytes."""
        entry = self._artifact.index.tensor(name)
        raw = self._artifact.index.shard(entry.shard).raw
        start = raw.offset + entry.offset + offset
        read_range(self._artifact.directory / raw.file, start, view, name)
