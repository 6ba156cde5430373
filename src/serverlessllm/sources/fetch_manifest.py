# SPDX-License-Identifier: Apache-2.0
"""Which files of a directory were fetched whole, and of which state of their source; survives a kill at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

MANIFEST_NAME: Final = ".fetched"


class _Line(msgspec.Struct, frozen=True):
    name: str
    identity: str
    size: int


class FetchManifest:
    """A file of JSON lines beside the fetched ones. One process at a time."""

    def __init__(self, directory: Path) -> None:
        """Read what is there; a torn last line counts as not written."""
        self._path = directory / MANIFEST_NAME
        self._lines: dict[str, _Line] = {}
        data = self._path.read_bytes() if self._path.exists() else b""
        for text in data.splitlines():
            try:
                line = msgspec.json.decode(text, type=_Line)
            except msgspec.DecodeError:
                continue
            self._lines[line.name] = line

    def has(self, target: Path, name: str, identity: str) -> bool:
        """Whether `target` is this state of the file, whole."""
        line = self._lines.get(name)
        if line is None or line.identity != identity or not target.is_file():
            return False
        return target.stat().st_size == line.size

    def add(self, name: str, identity: str, size: int) -> None:
        """The file is whole and in its place."""
        line = _Line(name, identity, size)
        with self._path.open("ab") as file:
            file.write(b"\n" + msgspec.json.encode(line) + b"\n")
        self._lines[name] = line
