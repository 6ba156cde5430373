# SPDX-License-Identifier: Apache-2.0
"""Bring all files of a location into a directory: resumable, verified where the medium promises a digest.

What an earlier, interrupted fetch of the same state of the same location brought is kept. Memory: one piece per
connection. Knows no formats; an archive is unpacked, because nobody can read it otherwise.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Final

from serverlessllm.checkpoint.spec import CHUNK_BYTES
from serverlessllm.errors import (
    CapacityError,
    CorruptDataError,
    InvalidRequestError,
    ModelLoadError,
    ShuttingDownError,
)
from serverlessllm.sources.access import Access
from serverlessllm.sources.archive import ArchiveLimits, is_archive, unpack
from serverlessllm.sources.base import Piece, RemoteFile
from serverlessllm.sources.download import Download
from serverlessllm.sources.fetch_manifest import FetchManifest
from serverlessllm.sources.file_sink import FileSink
from serverlessllm.sources.http import HttpSource
from serverlessllm.sources.http_document import stream
from serverlessllm.sources.location import Location, list_files, open_source
from serverlessllm.sources.partial_file import PartialFile

UNPACKED_NAME: Final = ".unpacked"

OnFetch = Callable[[int, int], None]
"""(bytes done, bytes in all as far as known). Called from several threads, one at a time."""


@dataclass(frozen=True, slots=True)
class FetchReport:
    """`directory` holds the model's files. `nbytes` crossed the network; `num_kept` files were there already."""

    directory: Path
    nbytes: int
    num_files: int
    num_kept: int


class Fetch:
    """One fetch; `run` once, `stop` from any thread."""

    def __init__(
        self,
        location: Location,
        directory: Path,
        access: Access,
        *,
        max_bytes: int,
        on_progress: OnFetch | None = None,
    ) -> None:
        """`directory` is the fetch's own and outlives it; `max_bytes` bounds all files, also unpacked.

        Raises: InvalidRequestError for a path, which needs no fetching.
        """
        if location.kind == "path":
            raise InvalidRequestError(f"{location.name} is here already", param="source")
        self._location = location
        self._directory = directory
        self._access = access
        self._max_bytes = max_bytes
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._download: Download | None = None
        self._is_stopped = False
        self._done_bytes = self._total_bytes = self._fetched_bytes = 0

    def stop(self) -> None:
        """End soon: `run` raises ShuttingDownError; a later fetch goes on from there. Idempotent."""
        with self._lock:
            self._is_stopped = True
            if self._download is not None:
                self._download.stop()

    @property
    def fetched_bytes(self) -> int:
        """Bytes that crossed the network so far; what `on_progress` counts beyond these was here already."""
        return self._fetched_bytes

    def run(self) -> FetchReport:
        """Fetch everything; blocks.

        Raises: CorruptDataError naming a file that differs from its promised digest or changes meanwhile;
        CapacityError saying what is missing on disk, before it begins where sizes are known; PermissionDeniedError;
        UnreachableError when retries did not help; ShuttingDownError when stopped.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        location = self._pinned()
        files = list_files(location, self._access)
        with ExitStack() as stack:
            sources = [stack.enter_context(self._open(location, file)) for file in files]
            self._total_bytes = sum(map(_size, files, sources))
            self._check_room()
            manifest = FetchManifest(self._directory)
            num_kept = sum(map(self._fetch, files, sources, repeat(manifest)))
        directory = self._directory
        if len(files) == 1 and is_archive(files[0].name):
            directory = self._unpacked(directory / files[0].name)
        return FetchReport(directory, self._fetched_bytes, len(files), num_kept)

    def _pinned(self) -> Location:
        """A branch of the hub may move between two files: ask for its commit once."""
        if self._location.kind != "hub":
            return self._location
        from serverlessllm.sources.hub import HubRepository

        repository = HubRepository(self._location.root, self._location.revision, self._access)
        return Location("hub", self._location.root, self._location.prefix, repository.commit)

    def _open(self, location: Location, file: RemoteFile) -> HttpSource:
        source = open_source(location, file.name if location.file_name is None else "", self._access)
        if not isinstance(source, HttpSource):
            raise TypeError(f"{source.name} is no remote source")
        return source

    def _check_room(self) -> None:
        if self._total_bytes > self._max_bytes:
            raise InvalidRequestError(
                f"{self._location.name} holds {self._total_bytes} bytes; {self._max_bytes} are allowed",
                param="source",
            )
        here = sum(path.stat().st_blocks * 512 for path in self._directory.rglob("*") if path.is_file())
        missing = self._total_bytes - here - shutil.disk_usage(self._directory).free
        if missing > 0:
            raise CapacityError(
                f"no room for {self._location.name} ({self._total_bytes} bytes) in {self._directory}: "
                f"{missing} bytes are missing; free some, e.g. with `sllm disk`",
                source="ingest",
            )

    def _fetch(self, file: RemoteFile, source: HttpSource, manifest: FetchManifest) -> bool:
        """Bring one file; True when it was there already."""
        target = self._directory / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        identity = file.sha256 or repr(source.identity)
        if manifest.has(target, file.name, identity):
            self._count(target.stat().st_size, fetched=False)
            return True
        self._bring(source, target, identity)
        try:
            self._check_promise(target, file)
        except CorruptDataError:
            # The road may have changed a bit; a file that is wrong where it lies is wrong the second time too.
            self._bring(source, target, identity)
            self._check_promise(target, file)
        manifest.add(file.name, identity, target.stat().st_size)
        return False

    def _bring(self, source: HttpSource, target: Path, identity: str) -> None:
        if source.has_ranges:
            self._in_pieces(source, target, identity)
        else:
            self._in_one_go(source.url, target)

    def _in_pieces(self, source: HttpSource, target: Path, identity: str) -> None:
        size = source.size
        pieces = [Piece(at, min(CHUNK_BYTES, size - at)) for at in range(0, size, CHUNK_BYTES)]
        with PartialFile(target, size, identity, pieces=pieces) as part:
            missing = part.missing(pieces)
            self._count(size - sum(piece.nbytes for piece in missing), fetched=False)
            if missing:
                sink = FileSink(part, CHUNK_BYTES, on_piece=lambda piece: self._count(piece.nbytes))
                download = Download(missing, [source], sink, num_workers=self._access.num_workers)
                self._begin(download)
                if not download.run().is_complete:
                    raise ShuttingDownError("the fetch was stopped", source="ingest")
            part.finish()

    def _begin(self, download: Download | None) -> None:
        with self._lock:
            if self._is_stopped:
                raise ShuttingDownError("the fetch was stopped", source="ingest")
            self._download = download

    def _in_one_go(self, url: str, target: Path) -> None:
        """From a server without ranges: from the front, and again from the front after a failure."""
        part = target.with_name(target.name + ".part")
        with part.open("wb") as file:

            def write(block: bytes) -> None:
                self._begin(None)
                file.write(block)
                self._count(len(block))

            stream(url, self._access.http, write, max_bytes=self._max_bytes)
        part.replace(target)

    def _check_promise(self, target: Path, file: RemoteFile) -> None:
        size = target.stat().st_size
        if file.size_bytes is not None and size != file.size_bytes:
            target.unlink()
            raise CorruptDataError(
                f"{file.name} has {size} bytes; {file.size_bytes} were promised", param=file.name
            )
        if file.sha256 is None:
            return
        found = _sha256(target)
        if found != file.sha256:
            target.unlink()
            raise CorruptDataError(
                f"{self._location.name}: {file.name} has SHA-256 {found[:16]}…, not {file.sha256[:16]}… as promised; "
                "fetch it again",
                param=file.name,
            )

    def _unpacked(self, archive: Path) -> Path:
        directory = self._directory / UNPACKED_NAME
        shutil.rmtree(directory, ignore_errors=True)
        return unpack(archive, directory, ArchiveLimits(self._max_bytes))

    def _count(self, nbytes: int, *, fetched: bool = True) -> None:
        with self._lock:
            self._done_bytes += nbytes
            self._fetched_bytes += nbytes if fetched else 0
            if self._on_progress is not None:
                self._on_progress(self._done_bytes, max(self._total_bytes, self._done_bytes))


def _size(file: RemoteFile, source: HttpSource) -> int:
    """What the listing says, else what the server says; 0 when neither does."""
    return source.identity.size_bytes or 0 if file.size_bytes is None else file.size_bytes


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelLoadError(f"cannot read {path} back: {error.strerror}", source="ingest") from error
