# SPDX-License-Identifier: Apache-2.0
"""Check every byte of an artifact: chunks and files against their digests, padding against zero.

Used wherever bytes cross a trust border, and on demand. Says where the first difference is, mends nothing.
Reads through one buffer of a chunk's size and maps nothing, so that it runs under any memory limit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from blake3 import blake3

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.index import Shard
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.errors import CorruptDataError


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found whole."""

    revision: str
    num_chunks: int
    num_files: int
    nbytes: int


def verify(artifact: Artifact, on_progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Read everything. `on_progress(done_bytes, total_bytes)` is called after each chunk.

    Raises: CorruptDataError naming file, shard and chunk of the first difference.
    """
    index = artifact.index
    total = sum(shard.raw.nbytes for shard in index.shards)
    done = num_chunks = 0
    for position, shard in enumerate(index.shards):
        for nbytes in _check_chunks(artifact, shard):
            num_chunks, done = num_chunks + 1, done + nbytes
            if on_progress is not None:
                on_progress(done, total)
        _check_padding(artifact, position)
    for entry in index.files:
        artifact.file(entry.name)
        done += entry.nbytes
    return VerifyReport(artifact.revision, num_chunks, len(index.files), done)


def _check_chunks(artifact: Artifact, shard: Shard) -> Iterator[int]:
    """Hash chunk by chunk; yields the size of each good one."""
    raw = shard.raw
    buffer = memoryview(bytearray(min(spec.CHUNK_BYTES, raw.nbytes)))
    with (artifact.directory / raw.file).open("rb", buffering=0) as weights:
        for number, expected in enumerate(raw.chunk_digests):
            start = number * spec.CHUNK_BYTES
            end = min(start + spec.CHUNK_BYTES, raw.nbytes)
            if blake3(_read(weights, raw.offset + start, buffer[: end - start])).hexdigest() != expected:
                raise CorruptDataError(
                    f"{artifact.directory / raw.file}: shard {shard.id!r}, chunk {number} (bytes "
                    f"{raw.offset + start} to {raw.offset + end}) differs from its digest; fetch it again",
                    param=raw.file,
                )
            yield end - start


def _read(file: BinaryIO, offset: int, view: memoryview) -> memoryview:
    """Fill `view`; a file that was cut meanwhile leaves less, which no digest fits."""
    filled = 0
    while filled < len(view):
        num_read = os.preadv(file.fileno(), [view[filled:]], offset + filled)
        if num_read == 0:
            break
        filled += num_read
    return view[:filled]


def _check_padding(artifact: Artifact, position: int) -> None:
    """The bytes between this shard's tensors, and before its start, are zero."""
    shard = artifact.index.shards[position]
    raw = shard.raw
    previous = artifact.index.shards[position - 1].raw if position else None
    end = previous.offset + previous.nbytes if previous and previous.file == raw.file else 0
    gaps = [(end, raw.offset)]
    end = raw.offset
    for entry in artifact.index.tensors:
        if entry.shard == shard.id:
            gaps.append((end, raw.offset + entry.offset))
            end = raw.offset + entry.offset + entry.nbytes
    with (artifact.directory / raw.file).open("rb", buffering=0) as weights:
        for start, stop in gaps:
            if stop > start and any(_read(weights, start, memoryview(bytearray(stop - start)))):
                raise CorruptDataError(
                    f"{artifact.directory / raw.file}: padding of shard {shard.id!r} at bytes {start} to {stop} "
                    "is not zero",
                    param=raw.file,
                )
