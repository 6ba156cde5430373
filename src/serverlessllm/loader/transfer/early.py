# SPDX-License-Identifier: Apache-2.0
"""Few bytes of a region before their turn: the embedding rows of a prompt, long before the whole matrix is there.

They go to their caller's memory and never into the region, because nothing vouches for them: digests are those of
whole chunks. Who uses them compares them with the region once it is whole. Knows places in files, not what they mean.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Protocol

from serverlessllm.errors import CorruptDataError, SllmError
from serverlessllm.loader.plan import ChunkRead
from serverlessllm.types import Tier

REQUEST_S: Final = 0.5e-3
"""What one more request costs beside others in flight: bytes between two ranges that arrive sooner are read along."""
MAX_THREADS: Final = 32
"""Small requests wait behind the bytes of the load itself; so many of them wait at once."""

Range = tuple[int, int]
"""(offset in the region, nbytes)."""


class EarlySource(Protocol):
    """An open file on disk or at an origin."""

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill `view` from `offset`; returns the bytes read."""

    def close(self) -> None:
        """Let go of it."""


EarlyOpener = Callable[[Tier, str], EarlySource]
"""(tier, file) → the open file. Raises SllmError."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """One request: `nbytes` at `file_offset`, which begin at `region_offset`."""

    tier: Tier
    file: str
    file_offset: int
    region_offset: int
    nbytes: int


class EarlyReads:
    """The ranges of one plan. `rate(tier)` is the bytes/s that a tier gives."""

    def __init__(
        self, reads: Sequence[ChunkRead], open_source: EarlyOpener, rate: Callable[[Tier], float]
    ) -> None:
        self._reads = sorted(reads, key=lambda read: read.region_offset)
        self._starts = [read.region_offset for read in self._reads]
        self._open = open_source
        self.rate = rate

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range; blocks. Opens what it needs and closes it again.

        Raises: CorruptDataError for a range outside the shards or a file that is too short; as the sources do.
        """
        wanted = sorted(ranges)
        stretches = list(self._joined(part for one in wanted for part in self._parts(one)))
        with ExitStack() as cleanup:
            num_threads = max(1, min(MAX_THREADS, len(stretches)))
            files = dict.fromkeys((stretch.tier, stretch.file) for stretch in stretches)
            sources = {}
            for key in files:
                sources[key] = self._open(*key)
                cleanup.callback(sources[key].close)
            threads = cleanup.enter_context(ThreadPoolExecutor(num_threads, thread_name_prefix="early"))
            found = list(threads.map(lambda one: _fetch(sources[one.tier, one.file], one), stretches))
        starts = [stretch.region_offset for stretch in stretches]
        return [_cut(starts, found, one) for one in ranges]

    def _parts(self, wanted: Range) -> Iterable[_Stretch]:
        """The range as the plan's reads cover it: neighbouring chunks may come from different tiers."""
        offset, end = wanted[0], sum(wanted)
        while offset < end:
            index = bisect_right(self._starts, offset) - 1
            read = self._reads[max(index, 0)]
            inside = offset - read.region_offset
            if not 0 <= inside < read.nbytes:
                raise CorruptDataError(f"byte {offset} of the region is in no shard", source="agent")
            nbytes = min(end - offset, read.nbytes - inside)
            yield _Stretch(read.tier, read.file, read.file_offset + inside, offset, nbytes)
            offset += nbytes

    def _joined(self, parts: Iterable[_Stretch]) -> Iterable[_Stretch]:
        """Stretches in order, close ones as one. They must lie in the file as they lie in the region."""
        last: _Stretch | None = None
        for part in parts:
            if last is not None and self._is_near(last, part):
                nbytes = max(last.nbytes, part.region_offset + part.nbytes - last.region_offset)
                last = _Stretch(last.tier, last.file, last.file_offset, last.region_offset, nbytes)
                continue
            if last is not None:
                yield last
            last = part
        if last is not None:
            yield last

    def _is_near(self, last: _Stretch, part: _Stretch) -> bool:
        is_same = (last.tier, last.file) == (part.tier, part.file)
        shift = part.file_offset - last.file_offset
        gap_bytes = shift - last.nbytes
        return (
            is_same
            and shift == part.region_offset - last.region_offset
            and gap_bytes <= self.rate(part.tier) * REQUEST_S
        )


def _fetch(source: EarlySource, stretch: _Stretch) -> bytearray:
    data = bytearray(stretch.nbytes)
    with memoryview(data) as view:
        count = source.read_into(stretch.file_offset, view)
    if count < stretch.nbytes:
        raise CorruptDataError(
            f"{stretch.file} ends at byte {stretch.file_offset + count}", param=stretch.file, source="agent"
        )
    return data


def _cut(starts: Sequence[int], found: Sequence[bytearray], wanted: Range) -> bytes:
    """The bytes of a range out of the stretches that cover it."""
    offset, end = wanted[0], sum(wanted)
    parts: list[bytes] = []
    while offset < end:
        index = bisect_right(starts, offset) - 1
        inside = offset - starts[index]
        part = bytes(found[index][inside : inside + end - offset])
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def first_that_opens(openers: Sequence[Callable[[], EarlySource]]) -> EarlySource:
    """Of several places the first that can be opened. Raises what the last one raised; ValueError for none."""
    failure: SllmError | None = None
    for opener in openers:
        try:
            return opener()
        except SllmError as error:
            failure = error
    if failure is None:
        raise ValueError("there is no place to open")
    raise failure
