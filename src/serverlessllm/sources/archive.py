# SPDX-License-Identifier: Apache-2.0
"""Unpack archives of strangers: .tar, .tar.gz, .tgz, .zip.

Only plain files and folders, below the target, within bounds that count what comes out, not what the archive says.
Knows nothing of where the archive comes from.
"""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from serverlessllm.errors import CapacityError, CheckpointFormatError, ModelLoadError
from serverlessllm.sources.safe_name import safe_name

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".zip")
COPY_BYTES: Final = 1 << 20
MAX_HEADER_BYTES: Final = 1 << 20
MAX_DIRECTORY_BYTES: Final = 16 << 20
"""Of a zip's table of contents, which is read as a whole: 10,000 entries with the longest names fit."""
_BROKEN: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # zipfile: the entry is encrypted
    UnicodeDecodeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """`max_bytes`: all files together, unpacked."""

    max_bytes: int
    max_entries: int = 10_000


@dataclass(frozen=True, slots=True)
class _Entry:
    """`open` is None for a folder."""

    name: str
    nbytes: int
    open: Callable[[], IO[bytes]] | None


def is_archive(name: str) -> bool:
    """Whether the name says that it is one of ours."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, directory: Path, limits: ArchiveLimits) -> Path:
    """Unpack into the empty `directory`; returns it, or the only folder in it when everything lies in one.

    Raises: CheckpointFormatError for a broken archive, a name that leaves the directory or comes twice, a link, a
    device, an encrypted entry, or too much of anything; CapacityError when the disk is full. What was unpacked
    before stays, for the caller to remove with the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            is_zip = archive.name.lower().endswith(".zip")
            entries = _zip_entries(archive, stack) if is_zip else _tar_entries(archive, stack)
            _write_all(entries, directory, limits, archive.name)
    except _BROKEN as error:
        raise _refused(archive.name, f"broken: {error or type(error).__name__}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CapacityError(
                f"no room to unpack {archive.name} in {directory}", source="ingest"
            ) from error
        raise ModelLoadError(
            f"cannot unpack {archive.name}: {error.strerror or error}", source="ingest"
        ) from error
    found = list(directory.iterdir())
    return found[0] if len(found) == 1 and found[0].is_dir() else directory


def _write_all(entries: Iterator[_Entry], directory: Path, limits: ArchiveLimits, where: str) -> None:
    left_bytes = limits.max_bytes
    for number, entry in enumerate(entries):
        if number >= limits.max_entries:
            raise _refused(where, f"more than {limits.max_entries} entries")
        if entry.nbytes > left_bytes:
            raise _refused(where, f"more than {limits.max_bytes} bytes when unpacked")
        target = directory / safe_name(entry.name, where=where)
        if entry.open is None:
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with entry.open() as source, target.open("xb") as file:
                left_bytes -= _copy(source, file, left_bytes, where, limits)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise _refused(where, f"the name {entry.name[:80]!r} comes twice") from error


def _copy(source: IO[bytes], file: IO[bytes], left_bytes: int, where: str, limits: ArchiveLimits) -> int:
    """Copy what really comes out; sizes in headers are claims."""
    done = 0
    while block := source.read(COPY_BYTES):
        done += len(block)
        if done > left_bytes:
            raise _refused(where, f"more than {limits.max_bytes} bytes when unpacked")
        file.write(block)
    return done


def _zip_entries(path: Path, stack: ExitStack) -> Iterator[_Entry]:
    raw = stack.enter_context(path.open("rb"))
    archive = stack.enter_context(zipfile.ZipFile(cast(IO[bytes], _BoundedReads(raw, MAX_DIRECTORY_BYTES))))
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(path.name, f"{info.filename[:80]!r} is a link or a device")
        if info.is_dir():
            yield _Entry(info.filename.rstrip("/"), 0, None)
            continue
        yield _Entry(info.filename, info.file_size, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_entries(path: Path, stack: ExitStack) -> Iterator[_Entry]:
    raw: IO[bytes] | gzip.GzipFile = stack.enter_context(path.open("rb"))
    if path.name.lower().endswith("gz"):
        raw = stack.enter_context(gzip.GzipFile(fileobj=raw, mode="rb"))
    archive = stack.enter_context(tarfile.TarFile(fileobj=_BoundedReads(raw, MAX_HEADER_BYTES)))
    for member in archive:
        name = member.name.removeprefix("./")
        if member.isdir():
            if name not in ("", "."):
                yield _Entry(name.rstrip("/"), 0, None)
        elif member.isreg():
            yield _Entry(name, member.size, lambda member=member: _opened(archive, member))  # type: ignore[misc]
        else:
            raise _refused(path.name, f"{name[:80]!r} is a link, a device or of another kind that is no file")


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise tarfile.TarError(f"{member.name[:80]!r} cannot be read")
    return file


class _BoundedReads:
    """A file of which no library can be made to read gigabytes of headers into memory at once."""

    name = ""
    mode = "rb"

    def __init__(self, raw: IO[bytes] | gzip.GzipFile, max_bytes: int) -> None:
        self._raw = raw
        self._max_bytes = max_bytes

    def read(self, size: int = -1, /) -> bytes:
        data = self._raw.read(min(size, self._max_bytes + 1) if size >= 0 else self._max_bytes + 1)
        if max(size, len(data)) > self._max_bytes:
            raise tarfile.ReadError(f"a header of more than {self._max_bytes} bytes")
        return data

    def write(self, data: bytes, /) -> int:
        raise io.UnsupportedOperation("write")

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()


def _refused(where: str, reason: str) -> CheckpointFormatError:
    return CheckpointFormatError(f"{where}: refusing the archive: {reason}", param=where)
