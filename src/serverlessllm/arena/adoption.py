# SPDX-License-Identifier: Apache-2.0
"""Which rows of a former owner's table may be adopted. Pure: reads no file.

A row is believed when the table's digest was right and the row is sound. The bytes are another matter: whoever
knows their digests checks them before the region is used (`Region.verified`).
"""

from __future__ import annotations

from collections.abc import Iterable

from serverlessllm.arena.mapping import PAGE_BYTES, Extent
from serverlessllm.arena.table import TableEntry
from serverlessllm.types import is_revision


def covered(extents: Iterable[Extent], extent_bytes: int) -> list[int]:
    """Indices of the extents that these byte ranges touch, in order; one that is touched twice comes twice."""
    return [
        index
        for offset, nbytes in extents
        for index in range(offset // extent_bytes, -(-(offset + nbytes) // extent_bytes))
    ]


def is_sound(row: TableEntry, *, extent_bytes: int, num_extents: int) -> bool:
    """Whether the row's name, sizes and grid are right and it lies inside the budget."""
    held_bytes = sum(nbytes for _, nbytes in row.extents)
    return (
        is_revision(row.revision)
        and 0 < row.nbytes <= held_bytes < row.nbytes + PAGE_BYTES
        and all(offset >= 0 and offset % extent_bytes == 0 for offset, _ in row.extents)
        and all(nbytes > 0 and nbytes % PAGE_BYTES == 0 for _, nbytes in row.extents)
        and all(nbytes % extent_bytes == 0 for _, nbytes in row.extents[:-1])
        and all(offset + nbytes <= num_extents * extent_bytes for offset, nbytes in row.extents)
    )


def adoptable(rows: Iterable[TableEntry], *, extent_bytes: int, num_extents: int) -> list[TableEntry]:
    """The rows to adopt: sound ones that overlap neither themselves nor one adopted before."""
    adopted: dict[str, TableEntry] = {}
    taken: set[int] = set()
    for row in rows:
        if row.revision in adopted or not is_sound(row, extent_bytes=extent_bytes, num_extents=num_extents):
            continue
        indices = covered(row.extents, extent_bytes)
        if len(set(indices)) == len(indices) and taken.isdisjoint(indices):
            adopted[row.revision] = row
            taken.update(indices)
    return list(adopted.values())
