# SPDX-License-Identifier: Apache-2.0
"""Which prompt chunks one replica has in its cache of keys and values: what its orchestrators score by.

A chunk (a name of `wire/prompt_chunks.py`) needs the blocks that hold its tokens, and the chunk before it. It is
published while all of them are cached. Bounded: the chunks longest unused are forgotten, the ends of texts first.
Pure accounting; knows no text, no tokens and no events.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

_Key = TypeVar("_Key")

MAX_CHUNKS: Final = 16_384
"""Per replica: 8 MiB of text, about 6 MB of memory here."""


@dataclass(slots=True)
class _Chunk:
    """`digests` name the blocks from the parent's end to its own; `num_missing` of them are not cached."""

    parent: int | None
    digests: tuple[bytes, ...]
    num_missing: int
    is_published: bool = False


class KvChunks:
    """Fed with blocks as the worker tells of them, and with chunks as requests come and end."""

    def __init__(self, on_change: Callable[[], None], *, max_chunks: int = MAX_CHUNKS) -> None:
        """`on_change` is called when `take_changes` has something to say."""
        self._on_change = on_change
        self._max_chunks = max_chunks
        self._cached: set[bytes] = set()
        self._chunks: OrderedDict[int, _Chunk] = OrderedDict()  # the longest unused first
        self._children: dict[int, set[int]] = {}
        self._needed_by: dict[bytes, set[int]] = {}
        self._changes: dict[int, bool] = {}  # name → whether it is published now

    @property
    def published(self) -> list[int]:
        """Every published chunk."""
        return [name for name, chunk in self._chunks.items() if chunk.is_published]

    def take_changes(self) -> tuple[list[int], list[int]]:
        """Chunks published and withdrawn since the last call; each in one list at most."""
        changes, self._changes = self._changes, {}
        return [name for name, is_new in changes.items() if is_new], [
            name for name, is_new in changes.items() if not is_new
        ]

    def note_blocks(self, stored: Iterable[bytes], removed: Iterable[bytes]) -> None:
        """The worker gave blocks up, and has others now. Telling twice is no error."""
        for digest in removed:
            if digest in self._cached:
                self._cached.discard(digest)
                for name in self._needed_by.get(digest, ()):
                    self._chunks[name].num_missing += 1
                    self._withdraw(name)
        for digest in stored:
            if digest not in self._cached:
                self._cached.add(digest)
                for name in self._needed_by.get(digest, ()):
                    self._chunks[name].num_missing -= 1
                    self._publish(name)
        self._tell()

    def add(self, names: Sequence[int], num_blocks: Sequence[int], digests: Sequence[bytes]) -> None:
        """Chunks of one text from its beginning, each with how many of the text's blocks lie below its end.

        `digests` are the text's blocks. A chunk with none below is left out: it says nothing.
        """
        start, parent, used = 0, None, list[int]()
        for name, end in zip(names, num_blocks, strict=False):
            if end == 0:
                continue
            self._put(name, parent, tuple(digests[start:end]))
            start, parent = max(start, end), name
            used.append(name)
        for name in reversed(used):
            self._chunks.move_to_end(name)
        while len(self._chunks) > self._max_chunks:
            self._forget(next(iter(self._chunks)))
        self._tell()

    def _put(self, name: int, parent: int | None, digests: tuple[bytes, ...]) -> None:
        known = self._chunks.get(name)
        if known is not None:
            if known.parent == parent and known.digests == digests:
                return
            self._forget(name)
        num_missing = sum(digest not in self._cached for digest in digests)
        self._chunks[name] = _Chunk(parent, digests, num_missing)
        for digest in digests:
            self._needed_by.setdefault(digest, set()).add(name)
        if parent is not None:
            self._children.setdefault(parent, set()).add(name)
        self._publish(name)

    def _publish(self, name: int) -> None:
        """Publish it and what follows it, as far as blocks are cached."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            chunk = self._chunks[name]
            parent = None if chunk.parent is None else self._chunks.get(chunk.parent)
            is_rooted = chunk.parent is None or (parent is not None and parent.is_published)
            if is_rooted and not chunk.num_missing and not chunk.is_published:
                chunk.is_published = True
                self._changes[name] = True
                waiting += self._children.get(name, ())

    def _withdraw(self, name: int) -> None:
        """Withdraw it and what follows it."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            chunk = self._chunks[name]
            if chunk.is_published:
                chunk.is_published = False
                self._changes[name] = False
                waiting += self._children.get(name, ())

    def _forget(self, name: int) -> None:
        self._withdraw(name)
        chunk = self._chunks.pop(name)
        for digest in chunk.digests:
            _discard(self._needed_by, digest, name)
        if chunk.parent is not None:
            _discard(self._children, chunk.parent, name)

    def _tell(self) -> None:
        if self._changes:
            self._on_change()


def _discard(index: dict[_Key, set[int]], key: _Key, name: int) -> None:
    """Take `name` out of the set at `key`; an empty set goes."""
    names = index[key]
    names.discard(name)
    if not names:
        del index[key]
