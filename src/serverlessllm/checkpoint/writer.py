# SPDX-License-Identifier: Apache-2.0
"""Make an artifact: written aside, made durable, renamed to its revision; nothing is left behind on error.

Streams tensor by tensor. Knows no source format: `ingest/convert.py` feeds it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from blake3 import blake3

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.arrange import Arrangement
from serverlessllm.checkpoint.index import CheckpointIndex, Encoding, FileEntry, Shard
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.staging import StagingDirectory
from serverlessllm.checkpoint.verify import verify
from serverlessllm.checkpoint.weights_writer import Buffer, WeightsWriter
from serverlessllm.errors import CapacityError, CheckpointError, CheckpointFormatError, InvalidRequestError

_UNWRITABLE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class ArtifactWriter:
    """`with ArtifactWriter(parent) as writer:` add_file…, begin, write…, publish.

    All methods raise CapacityError when the disk is full, InvalidRequestError when `parent` is not writable.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._files: list[FileEntry] = []
        self._arrangement: Arrangement | None = None
        self._weights: WeightsWriter | None = None

    def __enter__(self) -> Self:
        with _disk_errors(self._parent):
            self._staging = StagingDirectory(self._parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._weights is not None:
            self._weights.close()
        self._staging.discard()

    def add_file(self, name: str, data: bytes) -> None:
        """Store a tokenizer or configuration file under a plain name."""
        if not spec.FILE_NAME.fullmatch(name) or len(name) > spec.MAX_FILE_NAME_BYTES:
            raise CheckpointFormatError(f"file name {name[:80]!r} is not a plain name", param="files")
        with _disk_errors(self._parent):
            _write_durably(self._staging.path / name, data)
        self._files.append(FileEntry(name, len(data), blake3(data).hexdigest()))

    def begin(self, arrangement: Arrangement, aliases: Mapping[str, str]) -> None:
        """Fix the layout. Every rule of the format is checked here, before the first byte is written."""
        self._arrangement, self._aliases = arrangement, dict(sorted(aliases.items()))
        blank = tuple(
            Shard(s.id, s.kind, (Encoding("raw", s.file, s.offset, s.nbytes, _blank_digests(s.nbytes)),))
            for s in arrangement.shards
        )
        CheckpointIndex.parse(self._index(blank, "0" * 64, "0" * 64).to_bytes())
        self._weights = WeightsWriter(self._staging.path, arrangement)

    def write(self, name: str, data: Buffer) -> None:
        """Append the next tensor of the arrangement, or the next part of it."""
        if self._weights is None:
            raise CheckpointFormatError("write before begin: the layout is not fixed")
        with _disk_errors(self._parent):
            self._weights.write(name, data)

    def publish(self, *, source_digest: str, architecture_digest: str) -> Artifact:
        """Finish and rename to `parent/<revision>`.

        An equal revision that is there already is verified and reused; a damaged one is replaced.
        """
        if self._weights is None:
            raise CheckpointFormatError("publish before begin: the layout is not fixed")
        with _disk_errors(self._parent):
            index = self._index(self._weights.finish(), source_digest, architecture_digest)
            _write_durably(self._staging.path / spec.INDEX_NAME, index.to_bytes())
            target = self._parent / index.revision
            if not self._try_rename(index.revision) and not _is_whole(target, index.revision):
                _move_away(target)
                self._staging.publish(index.revision)
            return Artifact.open(target, expect_revision=index.revision)

    def _try_rename(self, revision: str) -> bool:
        """False if the revision is there already, put there long ago or by another writer just now."""
        try:
            self._staging.publish(revision)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        return True

    def _index(
        self, shards: tuple[Shard, ...], source_digest: str, architecture_digest: str
    ) -> CheckpointIndex:
        if self._arrangement is None:
            raise CheckpointFormatError("the layout is not fixed; call begin first")
        return CheckpointIndex(
            source_digest=source_digest,
            architecture_digest=architecture_digest,
            files=tuple(sorted(self._files, key=lambda entry: entry.name)),
            shards=shards,
            tensors=self._arrangement.tensors,
            groups=self._arrangement.groups,
            aliases=self._aliases,
        )


def _blank_digests(nbytes: int) -> tuple[str, ...]:
    return ("0" * 64,) * spec.num_chunks(nbytes)


def _is_whole(directory: Path, revision: str) -> bool:
    try:
        verify(Artifact.open(directory, expect_revision=revision))
    except CheckpointError:
        return False
    return True


def _move_away(target: Path) -> None:
    """Rename a damaged artifact to a staging name of no owner, and remove it."""
    doomed = StagingDirectory(target.parent)
    target.rename(doomed.path / target.name)
    doomed.discard()


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _disk_errors(parent: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CapacityError(
                f"no room on the disk of {parent}: {error.strerror}", source="ingest"
            ) from error
        if error.errno in _UNWRITABLE:
            raise InvalidRequestError(
                f"cannot write to {parent}: {error.strerror}", param="out_dir"
            ) from error
        raise
