# SPDX-License-Identifier: Apache-2.0
"""Which bytes to take from where, in which order. Pure: no clock, no I/O; knows shards and files, not tensors.

Shards come in the order of their arrival, each in reads, so that the first block of a model is whole while the last
one is still on its way. A read covers whole chunks, the format's grain of verification, and comes from one tier.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from serverlessllm.arena.mapping import PAGE_BYTES
from serverlessllm.arena.region import page_rounded
from serverlessllm.checkpoint.spec import CHUNK_BYTES
from serverlessllm.errors import CorruptDataError
from serverlessllm.types import Tier

ChunkKey = tuple[str, int]
"""(file, offset in the file) of a chunk."""

ARRIVAL_OF_KINDS: Final = ("block", "embed", "final")

TIER_ORDER: Final[tuple[Tier, ...]] = ("dram", "nvme", "peer", "remote")
"""Where two offers cost the same, the nearer one is taken."""


class LoadableEncoding(Protocol):
    """Where a shard's bytes lie: `nbytes` at `offset` of `file`, and the BLAKE3 of each of its chunks in hex."""

    @property
    def file(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def chunk_digests(self) -> Sequence[str]: ...


class LoadableShard(Protocol):
    """What loads alone; its first encoding is the one that an engine maps."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
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
    def small_files(self) -> Mapping[str, bytes]:
        """The index and every file beside the weights, by name. Needed only where there are origins."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A tier that has bytes of the artifact. `chunks` are those that it has; None means all."""

    tier: Tier
    seconds_per_byte: float
    chunks: Container[ChunkKey] | None = None

    def has(self, key: ChunkKey) -> bool:
        """Whether this chunk can be had here."""
        return self.chunks is None or key in self.chunks


@dataclass(frozen=True, slots=True)
class ChunkRead:
    """One read: `nbytes` of `file` at `file_offset` go to `region_offset`; both offsets are page-aligned.

    `digests` are those of its chunks, one per `CHUNK_BYTES`. The region's bytes up to the page's end are zeroed.
    """

    tier: Tier
    shard: int
    file: str
    file_offset: int
    region_offset: int
    nbytes: int
    digests: tuple[str, ...]

    @property
    def padded_bytes(self) -> int:
        """`nbytes` in whole pages."""
        return page_rounded(self.nbytes)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """`reads` and `shard_ids` in order of arrival; `shard_ids[read.shard]` names a read's shard."""

    reads: tuple[ChunkRead, ...]
    shard_ids: tuple[str, ...]
    total_bytes: int

    def of_tier(self, tier: Tier) -> tuple[ChunkRead, ...]:
        """The reads from one tier, in order."""
        return tuple(read for read in self.reads if read.tier == tier)

    def tier_bytes(self, tier: Tier) -> int:
        """Bytes that come from one tier."""
        return sum(read.nbytes for read in self.reads if read.tier == tier)

    @property
    def slowest_tier(self) -> Tier:
        """The farthest tier that any byte comes from."""
        return max((read.tier for read in self.reads), key=TIER_ORDER.index)


def arrival_order(index: LoadableIndex) -> list[LoadableShard]:
    """Blocks first, then the embeddings, then what is final.

    Of the embeddings a first pass needs the few rows of its prompt, which can be had alone (`transfer/early.py`);
    as a whole they are needed last, as a tied head or for the second token.
    """
    return sorted(index.shards, key=lambda shard: ARRIVAL_OF_KINDS.index(shard.kind))


def plan_load(
    index: LoadableIndex,
    offers: Sequence[Offer],
    *,
    max_read_bytes: int = CHUNK_BYTES,
    shards: Sequence[LoadableShard] | None = None,
) -> LoadPlan:
    """Take each chunk from the cheapest tier that has it; neighbours from one tier are read together.

    Reads are as long as whole chunks within `max_read_bytes` allow, at least one chunk. O(chunks · offers).
    Ensures: every byte of every shard is in exactly one read; reads are in the order of `shards` (all of the index;
    by default in its order) and ascend within a shard. Raises: CorruptDataError naming the file for a chunk that
    nobody has; ValueError for a shard that is off the page grid.
    """
    shards = index.shards if shards is None else shards
    cheapest = sorted(offers, key=lambda offer: (offer.seconds_per_byte, TIER_ORDER.index(offer.tier)))
    chunks_per_read = max(1, max_read_bytes // CHUNK_BYTES)
    reads: list[ChunkRead] = []
    for number, shard in enumerate(shards):
        raw = shard.encodings[0]
        region_offset = index.region_offset(shard.id)
        if raw.offset % PAGE_BYTES or region_offset % PAGE_BYTES:
            raise ValueError(f"shard {shard.id} does not start on a page: {raw.offset} → {region_offset}")
        for tier, first, count in _runs(_tiers(raw, cheapest), chunks_per_read):
            start = first * CHUNK_BYTES
            nbytes = min(count * CHUNK_BYTES, raw.nbytes - start)
            digests = tuple(raw.chunk_digests[first : first + count])
            reads.append(
                ChunkRead(tier, number, raw.file, raw.offset + start, region_offset + start, nbytes, digests)
            )
    ids = tuple(shard.id for shard in shards)
    return LoadPlan(tuple(reads), ids, sum(read.nbytes for read in reads))


def file_sizes(index: LoadableIndex) -> dict[str, int]:
    """The weights files in order, and the size of each."""
    sizes: dict[str, int] = {}
    for shard in index.shards:
        raw = shard.encodings[0]
        sizes[raw.file] = max(sizes.get(raw.file, 0), raw.offset + raw.nbytes)
    return sizes


def chunk_keys(index: LoadableIndex, file: str) -> set[ChunkKey]:
    """Every chunk of one file."""
    return {
        (file, shard.encodings[0].offset + start)
        for shard in index.shards
        if shard.encodings[0].file == file
        for start in range(0, shard.encodings[0].nbytes, CHUNK_BYTES)
    }


def _tiers(raw: LoadableEncoding, cheapest: Sequence[Offer]) -> Iterator[Tier]:
    """The tier of each of a shard's chunks."""
    for start in range(0, raw.nbytes, CHUNK_BYTES):
        key = (raw.file, raw.offset + start)
        offer = next((offer for offer in cheapest if offer.has(key)), None)
        if offer is None:
            raise CorruptDataError(
                f"bytes {key[1]} and following of {raw.file} are neither on this node nor at any origin; "
                "convert or fetch the model again",
                param=raw.file,
                source="agent",
            )
        yield offer.tier


def _runs(tiers: Iterator[Tier], max_count: int) -> Iterator[tuple[Tier, int, int]]:
    """(tier, first chunk, number of chunks) of neighbours from one tier, at most `max_count` together."""
    run: tuple[Tier, int, int] | None = None
    for number, tier in enumerate(tiers):
        if run is not None and run[0] == tier and run[2] < max_count:
            run = (tier, run[1], run[2] + 1)
            continue
        if run is not None:
            yield run
        run = (tier, number, 1)
    if run is not None:
        yield run
