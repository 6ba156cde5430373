# SPDX-License-Identifier: Apache-2.0
"""The arena's table: which whole revisions lie in which extents. Lives beside the arena file, in the same tmpfs.

Format (docs/arena.md): one line of canonical JSON, one line with its BLAKE3 in hex. Replaced by rename, so a
reader sees the old or the new one. Knows nothing of pins, of free extents, or of the bytes themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import blake3
import msgspec

from serverlessllm.arena.mapping import Extent

FORMAT: Final = "sllm-arena"
VERSION: Final = 1


class TableEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One whole region. `nbytes` may be up to a page less than its extents; `last_used_s` is monotonic."""

    revision: str
    nbytes: int
    extents: list[Extent]
    last_used_s: float


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All whole regions of an arena whose file is divided into extents of `extent_bytes`."""

    extent_bytes: int
    regions: list[TableEntry]
    format: str = FORMAT
    version: int = VERSION


def encode(table: Table) -> bytes:
    """The table's file, digest line included."""
    body = msgspec.json.encode(table, order="sorted")
    return body + b"\n" + blake3.blake3(body).hexdigest().encode() + b"\n"


def decode(data: bytes) -> Table | None:
    """The table in `data`, or None when it is torn, altered or of another format."""
    body, _, digest = data.partition(b"\n")
    if blake3.blake3(body).hexdigest().encode() != digest.strip():
        return None
    try:
        table = msgspec.json.decode(body, type=Table)
    except msgspec.MsgspecError:
        return None
    return table if (table.format, table.version) == (FORMAT, VERSION) else None


def read(path: Path) -> Table | None:
    """The table at `path`, or None when there is none that is whole."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return None


def write(path: Path, table: Table) -> None:
    """Replace the table at `path` in one step. Raises OSError; then the old table stands."""
    aside = path.with_name(path.name + ".new")
    aside.write_bytes(encode(table))
    aside.rename(path)
