# SPDX-License-Identifier: Apache-2.0
"""Check every byte of an artifact: chunks and files against their digests, padding against zero.

Used wherever bytes cross a trust border, and on demand. Says where the first difference is, mends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
    weights = artifact.weights(raw.file)
    for number, expected in enumerate(raw.chunk_digests):
        start = number * spec.CHUNK_BYTES
        end = min(start + spec.CHUNK_BYTES, raw.nbytes)
        chunk = weights[raw.offset + start : raw.offset + end]
        if blake3(chunk).hexdigest() != expected:
            raise CorruptDataError(
                f"{artifact.directory / raw.file}: shard {shard.id!r}, chunk {number} (bytes "
                f"{raw.offset + start} to {raw.offset + end}) differs from its digest; fetch it again",
                param=raw.file,
            )
        yield end - start


def _check_padding(artifact: Artifact, position: int) -> None:
    """The bytes between this shard's tensors, and before its start, are zero."""
    shard = artifact.index.shards[position]
    raw = shard.raw
    weights = artifact.weights(raw.file)
    previous = artifact.index.shards[position - 1].raw if position else None
    end = previous.offset + previous.nbytes if previous and previous.file == raw.file else 0
    gaps = [(end, raw.offset)]
    end = raw.offset
    for entry in artifact.index.tensors:
        if entry.shard == shard.id:
            gaps.append((end, raw.offset + entry.offset))
            end = raw.offset + entry.offset + entry.nbytes
    for start, stop in gaps:
        if any(weights[start:stop]):
            raise CorruptDataError(
                f"{artifact.directory / raw.file}: padding of shard {shard.id!r} at bytes {start} to {stop} "
                "is not zero",
                param=raw.file,
            )
