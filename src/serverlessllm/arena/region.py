# SPDX-License-Identifier: Apache-2.0
"""The bytes of one revision in the arena. Knows its extents; not the file's other regions, nor any pin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serverlessllm.arena.mapping import PAGE_BYTES, Extent, Mapping


def page_rounded(nbytes: int) -> int:
    """`nbytes` rounded up to whole pages of 4 KiB."""
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES


@dataclass(frozen=True, slots=True)
class ArenaEntry:
    """What `Arena.entries` tells of one region.

    `held_bytes` are what releasing it frees: whole extents. `last_used_s` is on the machine's monotonic clock.
    `verified` is False for an adopted region until its bytes were checked.
    """

    revision: str
    nbytes: int
    held_bytes: int
    complete: bool
    pinned: bool
    last_used_s: float
    verified: bool = True


class Region:
    """Room for one revision; made by `Arena.allocate`, filled through `view`, made whole by `Arena.publish`.

    `extents` are (file offset, nbytes) in order; mapped back to back they are the region, rounded up to 4 KiB.
    """

    def __init__(
        self,
        revision: str,
        nbytes: int,
        extents: Sequence[Extent],
        *,
        mapping: Mapping | None,
        last_used_s: float,
        verified: bool = True,
    ) -> None:
        """`mapping` is writable while the region loads, None for one that is whole."""
        self.verified = verified
        self.revision = revision
        self.nbytes = nbytes
        self.extents: list[Extent] = list(extents)
        self.last_used_s = last_used_s
        self._mapping = mapping
        self.complete = mapping is None

    @property
    def view(self) -> memoryview:
        """The writable bytes, page-rounded, with whatever the recycled pages held before.

        Raises: ValueError once the region is whole: readers map its extents read-only (`map_extents`).
        """
        if self._mapping is None:
            raise ValueError(f"region {self.revision} is not being written; map its extents read-only")
        return self._mapping.view

    def clear_tail(self) -> None:
        """Zero what the last page holds beyond `nbytes`."""
        view = self.view
        view[self.nbytes :] = bytes(len(view) - self.nbytes)

    def seal(self) -> None:
        """The region is whole and listed: no more writing. For `Arena.publish`."""
        self.drop()
        self.complete = True

    def drop(self) -> None:
        """Forget the writable mapping; a view that someone still holds stays valid until it is dropped."""
        self._mapping = None
