# SPDX-License-Identifier: Apache-2.0
"""Publish a directory in S3 so that nobody sees it half there: the file that announces the others goes last.

Knows file names and one rule about their order; not what an artifact is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serverlessllm.checkpoint.spec import INDEX_NAME
from serverlessllm.errors import CheckpointFormatError, InvalidRequestError, SllmError
from serverlessllm.sources.access import Access
from serverlessllm.sources.location import Location
from serverlessllm.sources.s3 import S3Bucket, translated

PART_BYTES: Final = 16 << 20
MAX_PARTS: Final = 9_000
"""S3 takes 10,000."""
CONCURRENT_PARTS: Final = 4
"""Memory: this many parts at once."""

OnUpload = Callable[[int, int], None]
"""(bytes done, bytes in all). Raising from it cancels the upload."""


@dataclass(frozen=True, slots=True)
class UploadReport:
    """`nbytes` were sent; none when the same directory was published before."""

    location: str
    nbytes: int
    was_published: bool


def upload_directory(
    directory: Path,
    location: Location,
    access: Access,
    *,
    is_trusted: bool = True,
    on_progress: OnUpload | None = None,
) -> UploadReport:
    """Copy every file of `directory` to the S3 `location`, `model.idx` last. Blocks; safe to repeat.

    A copy that is there already is left as it is, or, where it is not trusted, written over object by object.

    Raises: InvalidRequestError for another kind of location; CheckpointFormatError for a directory without
    `model.idx`; PermissionDeniedError, UnreachableError. Unfinished multipart uploads are aborted.
    """
    if location.kind != "s3":
        raise InvalidRequestError(f"{location.name}: only s3:// can be published to", param="destination")
    if not (directory / INDEX_NAME).is_file():
        raise CheckpointFormatError(f"{directory} has no {INDEX_NAME}", param=INDEX_NAME)
    bucket = S3Bucket(location.root, access)
    if is_trusted and _is_published(directory, bucket, location):
        return UploadReport(location.name, 0, was_published=True)
    files = sorted(
        (path for path in directory.rglob("*") if path.is_file()),
        key=lambda path: (path.name == INDEX_NAME, path.relative_to(directory).as_posix()),
    )
    total_bytes = sum(path.stat().st_size for path in files)
    done_bytes = 0

    def count(nbytes: int) -> None:
        nonlocal done_bytes
        done_bytes += nbytes
        if on_progress is not None:
            on_progress(done_bytes, total_bytes)

    for path in files:
        _put(bucket, location.key(path.relative_to(directory).as_posix()), path, count)
    return UploadReport(location.name, total_bytes, was_published=False)


def _is_published(directory: Path, bucket: S3Bucket, location: Location) -> bool:
    """Whether the very same index is there: it went last, and names every other file by its digest."""
    import obstore

    mine = (directory / INDEX_NAME).read_bytes()
    try:
        with translated(location.name):
            found = obstore.get(bucket.store, location.key(INDEX_NAME))
            return found.meta["size"] == len(mine) and bytes(found.bytes()) == mine
    except SllmError as error:
        if error.code == "corrupt_checkpoint":  # it does not exist
            return False
        raise


def _put(bucket: S3Bucket, key: str, path: Path, count: Callable[[int], None]) -> None:
    import obstore

    nbytes = path.stat().st_size
    part_bytes = max(PART_BYTES, -(-nbytes // MAX_PARTS))
    with translated(f"s3://{bucket.name}/{key}"):
        if nbytes <= PART_BYTES:
            obstore.put(bucket.store, key, path.read_bytes(), use_multipart=False)
            count(nbytes)
            return
        blocks = _blocks(path, part_bytes, count)
        obstore.put(bucket.store, key, blocks, chunk_size=part_bytes, max_concurrency=CONCURRENT_PARTS)


def _blocks(path: Path, block_bytes: int, count: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while block := file.read(block_bytes):
            yield block
            count(len(block))
