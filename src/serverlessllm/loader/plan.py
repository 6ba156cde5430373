# SPDX-License-Identifier: Apache-2.0
"""Which bytes to read in which order. Pure: no clock, no I/O; knows shards and files, not tensors.

Shards are read in execution order, each in chunks, so that the first block of a model is whole while the last
one is still on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serverlessllm.arena.mapping import PAGE_BYTES
from serverlessllm.arena.region import page_rounded


class LoadableEncoding(Protocol):
    """Where a shard's bytes lie: `nbytes` at `offset` of `file`, a name in the artifact's directory."""

    @property
    def file(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def nbytes(self) -> int: ...


class LoadableShard(Protocol):
    """What loads alone; its first encoding is the one that an engine maps."""

    @property
    def id(self) -> str: ...
    @property
    def encodings(self) -> Sequence[LoadableEncoding]: ...


class LoadableIndex(Protocol):
    """Shards in execution order, and where each starts in the region of `weights_nbytes`."""

    @property
    def shards(self) -> Sequence[LoadableShard]: ...
    @property
    def weights_nbytes(self) -> int: ...
    def region_offset(self, shard_id: str) -> int: ...


class LoadableArtifact(Protocol):
    """What the loader needs of an artifact; `checkpoint.reader.Artifact` is one."""

    @property
    def index(self) -> LoadableIndex: ...
    @property
    def directory(self) -> Path: ...
    @property
    def revision(self) -> str: ...


@dataclass(frozen=True, slots=True)
class ChunkRead:
    """One read: `nbytes` of `file` at `file_offset` go to `region_offset`; both offsets are page-aligned.

    The read itself is rounded up to whole pages: what follows a shard up to the page's end is zero padding.
    """

    shard: int
    file: str
    file_offset: int
    region_offset: int
    nbytes: int

    @property
    def padded_bytes(self) -> int:
        """`nbytes` in whole pages."""
        return page_rounded(self.nbytes)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """`chunks` in order of reading; `shard_ids[chunk.shard]` names a chunk's shard; `file_bytes` is the least
    size of each file.
    """

    chunks: tuple[ChunkRead, ...]
    shard_ids: tuple[str, ...]
    file_bytes: dict[str, int]
    total_bytes: int


def plan_load(index: LoadableIndex, chunk_bytes: int) -> LoadPlan:
    """Cut every shard into reads of at most `chunk_bytes`, a multiple of 4 KiB; the last one may be shorter.

    Ensures: every byte of every shard is in exactly one read; reads are in execution order and ascend within
    a shard. Raises: ValueError for a chunk size or a shard that is off the grid.
    """
    if chunk_bytes <= 0 or chunk_bytes % PAGE_BYTES:
        raise ValueError(f"chunk size {chunk_bytes} is not a multiple of {PAGE_BYTES}")
    chunks: list[ChunkRead] = []
    file_bytes: dict[str, int] = {}
    for number, shard in enumerate(index.shards):
        raw = shard.encodings[0]
        region_offset = index.region_offset(shard.id)
        if raw.offset % PAGE_BYTES or region_offset % PAGE_BYTES:
            raise ValueError(f"shard {shard.id} does not start on a page: {raw.offset} → {region_offset}")
        file_bytes[raw.file] = max(file_bytes.get(raw.file, 0), raw.offset + raw.nbytes)
        for start in range(0, raw.nbytes, chunk_bytes):
            nbytes = min(chunk_bytes, raw.nbytes - start)
            chunks.append(ChunkRead(number, raw.file, raw.offset + start, region_offset + start, nbytes))
    ids = tuple(shard.id for shard in index.shards)
    return LoadPlan(tuple(chunks), ids, file_bytes, sum(chunk.nbytes for chunk in chunks))
