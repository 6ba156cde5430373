# SPDX-License-Identifier: Apache-2.0
"""The disk's half of a fetch: files of one artifact on their way, until all are whole and in their place.

They lie in `.fetch-<revision>/`, which one process at a time owns (flock); whatever is in it when the load is cut off
is found by the next one. The artifact's own directory changes in single steps at the end: it appears as a whole, or
one of its files is replaced. Knows no origins and no region but the bytes it is given.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from serverlessllm.checkpoint.staging import fsync_directory
from serverlessllm.errors import ConflictError
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.plan import ChunkKey, LoadableIndex, file_sizes
from serverlessllm.loader.transfer.pieces import PlacedPiece, pieces_of_file
from serverlessllm.sources.base import Piece
from serverlessllm.sources.partial_file import PartialFile


class RoomMaker(Protocol):
    """Makes sure that so many bytes may be written for this artifact. Raises: DiskFullError."""

    def __call__(self, need_bytes: int) -> None: ...


class StagedCopy:
    """`resume`, `begin` and `write` in any order, then `settle`; `close` in any case, when nobody writes.

    `has_begun`: there is something to settle.
    """

    def __init__(self, nvme: NvmeTier, revision: str, index: LoadableIndex, make_room: RoomMaker) -> None:
        self._nvme = nvme
        self._revision = revision
        self._make_room = make_room
        self._index = index
        self._sizes = file_sizes(index)
        self._directory = nvme.fetch_path(revision)
        self._lock_fd = -1
        self._partial: dict[str, PartialFile] = {}
        self._finished: dict[str, Path] = {}
        self._pieces: dict[str, list[PlacedPiece]] = {}

    @property
    def has_begun(self) -> bool:
        """Whether any file is on its way."""
        return bool(self._partial or self._finished)

    def is_in_place(self, file: str) -> bool:
        """Whether the artifact has a file of this name, be it right or wrong."""
        return (self._nvme.artifact_path(self._revision) / file).is_file()

    def resume(self, files: Sequence[str]) -> dict[str, tuple[Path, set[ChunkKey]]]:
        """What an earlier load left of `files`: file → (path to read from, chunks in it). Raises as `begin`."""
        if not files or not self._directory.is_dir():
            return {}
        self._claim()
        found: dict[str, tuple[Path, set[ChunkKey]]] = {}
        for file in files:
            whole = self._directory / file
            if whole.is_file() and whole.stat().st_size == self._sizes[file]:
                self._finished[file] = whole
                found[file] = (whole, {(file, one.piece.offset) for one in self._placed(file)})
            elif self._part_path(file).is_file():
                self.begin([file])
                done = self._partial[file].done
                found[file] = (self._part_path(file), {(file, offset) for offset, _ in done})
        return found

    def begin(self, files: Sequence[str]) -> None:
        """Take the room for these files. Raises: DiskFullError; ConflictError when another process fetches them."""
        new = [file for file in files if file not in self._partial]
        if not new:
            return
        held_bytes = sum(_allocated_bytes(self._part_path(file)) for file in new)
        need_bytes = sum(self._sizes[file] for file in new) - held_bytes
        if need_bytes > 0:
            self._make_room(need_bytes)
        self._claim()
        for file in new:
            self._finished.pop(file, None)
            pieces = [one.piece for one in self._placed(file)]
            self._partial[file] = PartialFile(
                self._directory / file, self._sizes[file], self._revision, pieces=pieces
            )

    def write(self, file: str, piece: Piece, view: memoryview) -> None:
        """A verified chunk. Called by several threads. Raises: DiskFullError, ModelLoadError."""
        self._partial[file].write(piece, view)

    def settle(self, region: memoryview, small_files: Mapping[str, bytes]) -> None:
        """Complete the files from the whole `region`, and put them into the artifact. Blocks on the disk.

        `small_files`: all others of the artifact. What they replace is quarantined. Raises: DiskFullError,
        ModelLoadError, OSError; then the artifact is as it was, and a later load goes on from here.
        """
        for file, partial in list(self._partial.items()):
            places = {one.piece: one.region_offset for one in self._placed(file)}
            for piece in partial.missing(list(places)):
                with region[places[piece] : places[piece] + piece.nbytes] as view:
                    partial.write(piece, view)
            self._finished[file] = partial.finish()
            del self._partial[file]
        target = self._nvme.artifact_path(self._revision)
        if target.is_dir():
            self._replace_files(target, small_files)
        else:
            for name, data in small_files.items():
                _write_durably(self._directory / name, data)
            fsync_directory(self._directory)
            self._directory.rename(target)
            fsync_directory(target.parent)
        self._finished = {}

    def close(self) -> None:
        """Leave what is there for a later load. Idempotent."""
        for partial in self._partial.values():
            partial.close()
        self._partial = {}
        if self._lock_fd >= 0:
            if self._directory.is_dir() and not any(self._directory.iterdir()):
                self._directory.rmdir()
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _replace_files(self, target: Path, small_files: Mapping[str, bytes]) -> None:
        for file, path in self._finished.items():
            self._nvme.replace_file(path, target / file)
        wrong = {
            name: data
            for name, data in small_files.items()
            if not (target / name).is_file() or (target / name).read_bytes() != data
        }
        self._nvme.mend(target, wrong)

    def _claim(self) -> None:
        """Own the staging directory."""
        if self._lock_fd >= 0:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_fd)
            self._lock_fd = -1
            raise ConflictError(
                f"revision {self._revision} is being fetched by another process", source="agent"
            ) from None

    def _placed(self, file: str) -> list[PlacedPiece]:
        if file not in self._pieces:
            self._pieces[file] = pieces_of_file(self._index, file)
        return self._pieces[file]

    def _part_path(self, file: str) -> Path:
        return self._directory / f"{file}.part"


def _allocated_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
