# SPDX-License-Identifier: Apache-2.0
"""Which copies on a disk are to go. Pure: looks at what an inventory found, removes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serverlessllm.wire.disk import CleanDisk, CopyKind, DiskCopy

_ALWAYS: Final[tuple[CopyKind, ...]] = ("quarantined", "leftover")
_FETCHED: Final[tuple[CopyKind, ...]] = ("fetching", "source")


def choose_cleaning(copies: Sequence[DiskCopy], wish: CleanDisk) -> list[DiskCopy]:
    """What `wish` removes of `copies`, in the order in which it goes; nothing that is in use.

    Where it is not known which artifacts are registered, all count as registered.
    """
    idle = [copy for copy in copies if not copy.is_in_use]
    chosen = [copy for copy in idle if _is_asked_for(copy, wish)]
    if wish.to_bytes is None:
        return chosen
    left_bytes = sum(copy.nbytes for copy in copies) - sum(copy.nbytes for copy in chosen)
    more = [(place, copy) for copy in idle if copy not in chosen and (place := _sacrifice(copy)) is not None]
    for _, copy in sorted(more, key=lambda one: (one[0], one[1].last_used_s)):
        if left_bytes <= wish.to_bytes:
            break
        chosen.append(copy)
        left_bytes -= copy.nbytes
    return chosen


def _is_asked_for(copy: DiskCopy, wish: CleanDisk) -> bool:
    if copy.kind in _ALWAYS:
        return True
    if copy.kind in _FETCHED:
        return wish.fetched
    return wish.artifacts and copy.models == []


def _sacrifice(copy: DiskCopy) -> int | None:
    """How readily it is given up for room, the smallest first; None: never."""
    if copy.kind in _FETCHED:
        return 0
    if copy.models == []:
        return 1
    return 2 if copy.origins else None
