# SPDX-License-Identifier: Apache-2.0
"""The table's file, and which of its rows are trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverlessllm.arena import table
from serverlessllm.arena.adoption import adoptable
from serverlessllm.arena.table import Table, TableEntry

GRAIN = 1 << 20
A, B = "a" * 32, "b" * 32


def row(
    revision: str = A, nbytes: int = GRAIN + 100, extents: list[tuple[int, int]] | None = None
) -> TableEntry:
    return TableEntry(revision, nbytes, extents or [(0, GRAIN), (4 * GRAIN, 4096)], 1.5)


def test_table_survives_the_way_through_its_file(tmp_path: Path) -> None:
    written = Table(GRAIN, [row()])
    table.write(tmp_path / "table", written)
    assert table.read(tmp_path / "table") == written
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_table_bytes_are_pinned() -> None:
    body, digest, rest = table.encode(Table(GRAIN, [row()])).split(b"\n")
    assert body == (
        b'{"extent_bytes":1048576,"format":"sllm-arena","regions":[{"extents":[[0,1048576],[4194304,4096]],'
        b'"last_used_s":1.5,"nbytes":1048676,"revision":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}],"version":1}'
    )
    assert len(digest) == 64
    assert rest == b""


def test_table_with_any_byte_changed_is_no_table() -> None:
    whole = table.encode(Table(GRAIN, [row()]))
    for position in range(len(whole) - 1):
        torn = bytearray(whole)
        torn[position] ^= 1
        assert table.decode(bytes(torn)) is None
    assert all(table.decode(whole[:cut]) is None for cut in range(len(whole) - 1))


def test_sound_rows_are_adopted_in_order() -> None:
    rows = [row(), row(B, GRAIN, [(GRAIN, GRAIN)])]
    assert adoptable(rows, extent_bytes=GRAIN, num_extents=5) == rows


@pytest.mark.parametrize(
    "bad",
    [
        row(revision="../../etc/passwd"),
        row(nbytes=0),
        row(nbytes=GRAIN),
        row(nbytes=GRAIN + 4097),
        row(extents=[(5, GRAIN), (4 * GRAIN, 4096)]),
        row(extents=[(0, 4096), (4 * GRAIN, GRAIN)]),
        row(extents=[(0, GRAIN), (0, 4096)]),
        row(extents=[(-GRAIN, GRAIN), (4 * GRAIN, 4096)]),
        row(extents=[(0, GRAIN), (8 * GRAIN, 4096)]),
    ],
)
def test_unsound_row_is_not_adopted_and_does_not_harm_others(bad: TableEntry) -> None:
    good = row(B, GRAIN, [(2 * GRAIN, GRAIN)])
    assert adoptable([bad, good], extent_bytes=GRAIN, num_extents=5) == [good]


def test_second_row_of_a_revision_or_of_an_extent_is_not_adopted() -> None:
    overlapping = row(B, 4096, [(4 * GRAIN, 4096)])
    assert adoptable([row(), row(), overlapping], extent_bytes=GRAIN, num_extents=5) == [row()]
