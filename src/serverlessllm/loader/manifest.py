# SPDX-License-Identifier: Apache-2.0
"""The small part of an artifact, all but its weights: index, configuration, tokenizer, from disk or an origin.

The revision is the root of trust: the index must hash to it, and every other file to what the index says. So it
does not matter who sent them. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from blake3 import blake3

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.index import CheckpointIndex, FileEntry
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.errors import CorruptDataError, SllmError
from serverlessllm.sources.access import Access
from serverlessllm.sources.base import Source
from serverlessllm.sources.location import Location, open_source

OriginOpener = Callable[[str, str], Source]
"""(origin, file name) → the open file; raises as `Source.read_into`."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """An artifact whose small files are in memory; `fetched` are those that came from an origin."""

    artifact: Artifact
    fetched: tuple[str, ...]


def read_manifest(
    revision: str, directory: Path, origins: Sequence[str], open_origin: OriginOpener
) -> Manifest:
    """The artifact's weights lie in `directory`, or will. What is on disk and right is not fetched. Blocks.

    Raises: CorruptDataError when no origin has the right bytes, naming what each of them did wrong;
    UnsupportedCheckpointError and CheckpointFormatError for an index that we cannot use.
    """
    known = _Origins(origins, open_origin)
    fetched: list[str] = []

    def bring(name: str, max_bytes: int, is_right: Callable[[bytes], bool]) -> bytes:
        found = _local(directory / name, max_bytes, is_right)
        if found is None:
            found = known.fetch(name, max_bytes, is_right)
            fetched.append(name)
        return found

    data = bring(spec.INDEX_NAME, spec.MAX_INDEX_BYTES, lambda found: _revision(found) == revision)
    index = CheckpointIndex.parse(data)
    files = {entry.name: bring(entry.name, entry.nbytes, partial(_is_right, entry)) for entry in index.files}
    return Manifest(Artifact(directory, index, files), tuple(fetched))


def origin_opener(access: Access) -> OriginOpener:
    """Opens files of origins as locations are written (`s3://…`, `https://…`, a path)."""

    def open_origin(origin: str, name: str) -> Source:
        return open_source(Location.parse(origin), name, access)

    return open_origin


def _revision(data: bytes) -> str:
    return blake3(data).hexdigest()[:32]


def _is_right(entry: FileEntry, data: bytes) -> bool:
    return len(data) == entry.nbytes and blake3(data).hexdigest() == entry.blake3


def _local(path: Path, max_bytes: int, is_right: Callable[[bytes], bool]) -> bytes | None:
    """The file's bytes if it is here and right."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError:
        return None
    return data if is_right(data) else None


class _Origins:
    """Asks one origin after the other; who failed is asked last the next time."""

    def __init__(self, origins: Sequence[str], open_origin: OriginOpener) -> None:
        self._origins = list(origins)
        self._open = open_origin

    def fetch(self, name: str, max_bytes: int, is_right: Callable[[bytes], bool]) -> bytes:
        """The first right bytes. Raises CorruptDataError with what went wrong at each origin.

        Who sent wrong ones is asked once more at the end: the road may have changed a bit.
        """
        blame: dict[str, str] = {}
        tries = list(self._origins)
        for origin in tries:
            try:
                data = self._read(origin, name, max_bytes)
            except SllmError as error:
                blame[origin] = error.message
            else:
                if is_right(data):
                    return data
                if origin not in blame:
                    tries.append(origin)
                blame[origin] = f"{origin} sent wrong bytes"
            self._origins.remove(origin)
            self._origins.append(origin)
        raise CorruptDataError(
            f"{name} is not on this node, and no origin has it: {'; '.join(blame.values()) or 'none is known'}",
            param=name,
            source="agent",
        )

    def _read(self, origin: str, name: str, max_bytes: int) -> bytes:
        source = self._open(origin, name)
        try:
            nbytes = source.size
            if nbytes > max_bytes:
                raise CorruptDataError(
                    f"{source.name} has {nbytes} bytes, at most {max_bytes} are expected",
                    param=name,
                    source="agent",
                )
            data = bytearray(nbytes)
            count = source.read_into(0, memoryview(data)) if nbytes else 0
            return bytes(data[:count])
        finally:
            source.close()
