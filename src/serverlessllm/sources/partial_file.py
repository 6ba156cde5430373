# SPDX-License-Identifier: Apache-2.0
"""A file that arrives in pieces, in any order, and outlives the process that fetches it.

`NAME.part` has its full size from the start, so that a full disk shows before the first byte is fetched;
`NAME.part.done` records which pieces are in it. `finish` makes both durable and gives the file its name; until then
nobody sees it. Knows pieces; not where they come from.

What a kill leaves is trusted, because the page cache outlives the process. What a power cut leaves is not: pieces
that were recorded under another boot of the machine are read back and checked against their digest.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3

from serverlessllm.errors import ConflictError, DiskFullError, ModelLoadError, SllmError
from serverlessllm.sources.base import Piece

DIRECT_ALIGN_BYTES: Final = 4096
_RECORD: Final = struct.Struct("<QQI")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First line of the record: what the pieces are pieces of, and under which boot they were written."""

    identity: str
    size: int
    boot: str


class PartialFile:
    """`path` on its way. One process at a time; `write` may be called by several threads, each with its own piece.

    `done` holds the (offset, nbytes) of what need not be fetched again.
    """

    def __init__(self, path: Path, size: int, identity: str, *, pieces: Sequence[Piece] = ()) -> None:
        """Begin, or go on where an earlier process was cut off: same size, same `identity` (revision, ETag).

        `pieces`: those that would be fetched, with their digests, for the check after a power cut. Raises:
        DiskFullError saying how much room is missing, before anything is written; ConflictError when another
        process is at it; ModelLoadError when the directory cannot be written.
        """
        self.path = path
        self.size = size
        self._part = path.with_name(path.name + ".part")
        self._record = path.with_name(path.name + ".part.done")
        self._header = _Header(identity, size, _boot_id())
        self._lock = threading.Lock()
        self._fd = self._direct_fd = self._record_fd = -1
        self.done: set[tuple[int, int]] = set()
        try:
            while not self._claim():
                os.close(self._fd)
            known = self._recorded() if os.fstat(self._fd).st_size == size else None
            self._reserve()
            self.done = self._trusted(known, pieces)
            self._start_record()
            self._direct_fd = self._open_direct()
        except OSError as error:
            self.close()
            raise self._failure(error) from error
        except SllmError:
            self.close()
            raise

    def _claim(self) -> bool:
        """Open and lock the part; False when its owner finished it in between: then it is the visible file."""
        self._fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(self._fd), self._part.stat())
        except BlockingIOError as error:
            raise ConflictError(f"{self.path} is being fetched by another process") from error
        except FileNotFoundError:
            return False

    def _reserve(self) -> None:
        """Take all the room now. Raises: DiskFullError with the shortage."""
        status = os.fstat(self._fd)
        room = os.fstatvfs(self._fd)
        missing = self.size - status.st_blocks * 512 - room.f_bavail * room.f_frsize
        if missing > 0:
            self._discard_if_empty(status)
            raise self._no_room(missing)
        os.ftruncate(self._fd, self.size)
        if self.size:
            try:
                os.posix_fallocate(self._fd, 0, self.size)
            except OSError as error:
                if error.errno in _FULL:
                    self._discard_if_empty(status)
                    raise self._no_room(None) from error
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise

    def _discard_if_empty(self, status: os.stat_result) -> None:
        if status.st_blocks == 0:
            self._part.unlink(missing_ok=True)

    def _no_room(self, missing: int | None) -> DiskFullError:
        shortage = f"{missing} bytes are missing" if missing is not None else "the disk is full"
        return DiskFullError(
            f"no room for {self.path} ({self.size} bytes): {shortage}; free some, e.g. with `sllm disk`",
            source="agent",
        )

    def _failure(self, error: OSError) -> SllmError:
        if error.errno in _FULL:
            return self._no_room(None)
        return ModelLoadError(f"cannot write {self.path}: {error.strerror}; check the disk", source="agent")

    def _recorded(self) -> tuple[_Header, set[tuple[int, int]]] | None:
        """What an earlier process wrote down; None when that is for other bytes, or cannot be read."""
        try:
            head, _, body = self._record.read_bytes().partition(b"\n")
            header = msgspec.json.decode(head, type=_Header)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        if (header.identity, header.size) != (self._header.identity, self._header.size):
            return None
        found: set[tuple[int, int]] = set()
        for at in range(0, len(body) - _RECORD.size + 1, _RECORD.size):
            offset, nbytes, check = _RECORD.unpack_from(body, at)
            if check != zlib.crc32(body[at : at + 16]) or offset + nbytes > self.size:
                break  # a torn end
            found.add((offset, nbytes))
        return header, found

    def _trusted(
        self, known: tuple[_Header, set[tuple[int, int]]] | None, pieces: Sequence[Piece]
    ) -> set[tuple[int, int]]:
        if known is None:
            return set()
        header, found = known
        wanted = {(piece.offset, piece.nbytes): piece.digest for piece in pieces}
        found = {entry for entry in found if not wanted or entry in wanted}
        if header.boot == self._header.boot and header.boot:
            return found
        return {entry for entry in found if self._is_intact(entry, wanted.get(entry))}

    def _is_intact(self, entry: tuple[int, int], digest: str | None) -> bool:
        return digest is not None and blake3(os.pread(self._fd, entry[1], entry[0])).hexdigest() == digest

    def _start_record(self) -> None:
        """Write the record anew, aside: it holds what is trusted, under this boot."""
        aside = self._record.with_name(self._record.name + ".new")
        body = b"".join(_entry(*entry) for entry in sorted(self.done))
        aside.write_bytes(msgspec.json.encode(self._header) + b"\n" + body)
        aside.replace(self._record)
        self._record_fd = os.open(self._record, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _open_direct(self) -> int:
        """Past the page cache: the bytes are in memory already, a second copy would push out what others need."""
        try:
            return os.open(self._part, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            return -1

    def missing(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Those of `pieces` that are not in the file yet, in their order."""
        return [piece for piece in pieces if (piece.offset, piece.nbytes) not in self.done]

    def read_into(self, piece: Piece, view: memoryview) -> None:
        """Read back a piece that is done. Raises: ModelLoadError."""
        try:
            count = os.preadv(self._fd, [view], piece.offset)
        except OSError as error:
            raise self._failure(error) from error
        if count < piece.nbytes:
            raise ModelLoadError(f"{self._part} was truncated by somebody else", source="agent")

    def write(self, piece: Piece, view: memoryview) -> None:
        """Store the bytes of `piece`, then record it. Raises: DiskFullError when the disk is full; ModelLoadError."""
        try:
            self._write_all(piece.offset, view)
            os.write(self._record_fd, _entry(piece.offset, piece.nbytes))
        except OSError as error:
            raise self._failure(error) from error
        with self._lock:
            self.done.add((piece.offset, piece.nbytes))

    def _write_all(self, offset: int, view: memoryview) -> None:
        done = 0
        is_aligned = self._direct_fd >= 0 and (offset | len(view)) % DIRECT_ALIGN_BYTES == 0
        while done < len(view):
            with view[done:] as rest:
                try:
                    done += os.pwritev(self._direct_fd if is_aligned else self._fd, [rest], offset + done)
                except OSError as error:
                    if not is_aligned or error.errno != errno.EINVAL:
                        raise
                    is_aligned = False  # the memory is not on the grid, or the grid is coarser

    def finish(self) -> Path:
        """Make the file durable and visible under its name; replaces an older one. Call when nothing is missing."""
        try:
            os.fsync(self._fd)
            self._part.replace(self.path)
            self._record.unlink(missing_ok=True)
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise self._failure(error) from error
        finally:
            self.close()
        return self.path

    def discard(self) -> None:
        """Remove what has been fetched; nothing is to be resumed."""
        self._part.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave it for a later process to go on with. Idempotent."""
        for fd in (self._fd, self._direct_fd, self._record_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._direct_fd = self._record_fd = -1

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _entry(offset: int, nbytes: int) -> bytes:
    head = struct.pack("<QQ", offset, nbytes)
    return head + struct.pack("<I", zlib.crc32(head))


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
