# SPDX-License-Identifier: Apache-2.0
"""Who holds which block: reference counts, names, and the order in which cached blocks are given up.

Pure accounting: knows no tensors and no sequences.

    state    references   named    allocate    → becomes
    free     0            no       first       held
    cached   0            yes      then        held, its name forgotten; the longest unused first
    held     ≥ 1          either   never       cached or free once nobody holds it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from serverlessllm.errors import EngineError


class BlockPool:
    """`num_blocks` blocks, numbered from 0."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._digests: list[bytes | None] = [None] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: dict[int, None] = {}  # insertion order: the longest unused first
        self._by_digest: dict[bytes, int] = {}
        self._changes: dict[bytes, bool] = {}  # name → whether it is found now

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can give."""
        return len(self._free) + len(self._cached)

    @property
    def is_unused(self) -> bool:
        """Whether nobody holds a block."""
        return self.num_available == self.num_blocks

    def allocate(self) -> int | None:
        """A block with one reference and no name; None when all are held."""
        if self._free:
            block = self._free.pop()
        elif self._cached:
            block = next(iter(self._cached))
            del self._cached[block]
            self._forget(block)
        else:
            return None
        self._references[block] = 1
        return block

    def find(self, digest: bytes) -> int | None:
        """The block of that name, held or cached. It is not held by the asking."""
        return self._by_digest.get(digest)

    def hold(self, block: int) -> None:
        """One reference more, to a block that is held or cached."""
        self._cached.pop(block, None)
        self._references[block] += 1

    def is_shared(self, block: int) -> bool:
        """Whether more than one holds it: then it must not be written."""
        return self._references[block] > 1

    def name(self, block: int, digest: bytes) -> None:
        """A held block is full and stored: others may find it. Where another has the name, this one stays without."""
        if self._digests[block] is None and digest not in self._by_digest:
            self._digests[block] = digest
            self._by_digest[digest] = block
            self._changes[digest] = True

    def take_changes(self) -> tuple[list[bytes], list[bytes]]:
        """Names that became known and names that were forgotten since the last call; each in one list at most."""
        changes, self._changes = self._changes, {}
        return [name for name, found in changes.items() if found], [
            name for name, found in changes.items() if not found
        ]

    def release(self, blocks: Iterable[int]) -> None:
        """One reference less each, the last block first: a chain without its head is worthless, so it goes last."""
        for block in reversed(list(blocks)):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if self._digests[block] is None:
                self._free.append(block)
            else:
                self._cached[block] = None

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Compare with `tables`, the blocks of everyone alive. Raises: EngineError naming the first difference."""
        held = Counter(block for table in tables for block in table)
        free = Counter(self._free)
        for block, references in enumerate(self._references):
            places = free[block] + (block in self._cached) + (references > 0)
            if references != held[block] or places != 1:
                raise EngineError(
                    f"block {block} has {references} references, {held[block]} holders and {places} places"
                )
        named = {digest: block for block, digest in enumerate(self._digests) if digest is not None}
        unnamed = [block for block in self._cached if self._digests[block] is None]
        if named != self._by_digest or unnamed:
            raise EngineError("the names of cached blocks disagree with their index")

    def _forget(self, block: int) -> None:
        digest, self._digests[block] = self._digests[block], None
        if digest is not None:
            del self._by_digest[digest]
            self._changes[digest] = False
