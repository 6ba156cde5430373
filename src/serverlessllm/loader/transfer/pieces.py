# SPDX-License-Identifier: Apache-2.0
"""Chunks as pieces of their files, and where in the region each belongs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from serverlessllm.checkpoint.spec import CHUNK_BYTES
from serverlessllm.loader.plan import ChunkRead, LoadableIndex, Offer, plan_load
from serverlessllm.sources.base import Piece


@dataclass(frozen=True, slots=True)
class PlacedPiece:
    """A chunk of a file, its place in the region, and the shard that it is part of."""

    piece: Piece
    region_offset: int
    shard: int


def placed(reads: Iterable[ChunkRead]) -> Iterator[PlacedPiece]:
    """The chunks of reads, in their order; a digest that the format does not give is None."""
    for read in reads:
        for start in range(0, read.nbytes, CHUNK_BYTES):
            number = start // CHUNK_BYTES
            digest = read.digests[number] if number < len(read.digests) else None
            piece = Piece(read.file_offset + start, min(CHUNK_BYTES, read.nbytes - start), digest)
            yield PlacedPiece(piece, read.region_offset + start, read.shard)


def pieces_of_file(index: LoadableIndex, file: str) -> list[PlacedPiece]:
    """All chunks of one file, in its order."""
    plan = plan_load(index, [Offer("remote", 0.0)])
    return list(placed(read for read in plan.reads if read.file == file))
