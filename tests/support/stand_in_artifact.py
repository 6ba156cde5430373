# SPDX-License-Identifier: Apache-2.0
"""A `LoadableArtifact` on disk: random weights in shards of given sizes, without tensors or an index file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from serverlessllm.checkpoint.spec import CHUNK_BYTES


def page_rounded(nbytes: int) -> int:
    return -(-nbytes // 4096) * 4096


@dataclass(frozen=True)
class StandInEncoding:
    file: str
    offset: int
    nbytes: int
    chunk_digests: tuple[str, ...] = ()


@dataclass(frozen=True)
class StandInShard:
    id: str
    encodings: tuple[StandInEncoding, ...]
    kind: str = "block"


@dataclass(frozen=True)
class StandInIndex:
    shards: tuple[StandInShard, ...]
    weights_nbytes: int
    offsets: Mapping[str, int]

    def region_offset(self, shard_id: str) -> int:
        return self.offsets[shard_id]


def chunk_digests(data: bytes) -> tuple[str, ...]:
    """BLAKE3 of each chunk."""
    return tuple(
        blake3(data[start : start + CHUNK_BYTES]).hexdigest() for start in range(0, len(data), CHUNK_BYTES)
    )


def stand_in_index(files: Sequence[Sequence[int]]) -> StandInIndex:
    """One inner sequence per `.bin` file: the sizes of its shards."""
    shards: list[StandInShard] = []
    offsets: dict[str, int] = {}
    file_start = end = 0
    for number, sizes in enumerate(files):
        at = 0
        for nbytes in sizes:
            shard_id = f"shard.{len(shards)}"
            shards.append(StandInShard(shard_id, (StandInEncoding(f"model-{number}.bin", at, nbytes),)))
            offsets[shard_id] = file_start + at
            end = file_start + at + nbytes
            at = page_rounded(at + nbytes)
        file_start = page_rounded(end)
    return StandInIndex(tuple(shards), end, offsets)


@dataclass(frozen=True)
class StandInArtifact:
    """`region` is what a whole region must hold, page-rounded."""

    directory: Path
    revision: str
    index: StandInIndex
    region: bytes

    @classmethod
    def write(cls, parent: Path, revision: str, *files: Sequence[int]) -> StandInArtifact:
        """Make the files; sizes as for `stand_in_index`."""
        index = stand_in_index(files)
        directory = parent / revision
        directory.mkdir(parents=True)
        region = bytearray(page_rounded(index.weights_nbytes))
        contents: dict[str, bytearray] = {}
        shards: list[StandInShard] = []
        for shard in index.shards:
            raw = shard.encodings[0]
            data = os.urandom(raw.nbytes)
            shards.append(StandInShard(shard.id, (replace(raw, chunk_digests=chunk_digests(data)),)))
            file = contents.setdefault(raw.file, bytearray())
            file += bytes(raw.offset - len(file)) + data
            start = index.region_offset(shard.id)
            region[start : start + raw.nbytes] = data
        for name, content in contents.items():
            (directory / name).write_bytes(content)
        return cls(directory, revision, replace(index, shards=tuple(shards)), bytes(region))

    def small_files(self) -> dict[str, bytes]:
        """It has none."""
        return {}
