# SPDX-License-Identifier: Apache-2.0
"""Which files of this node's disk must be checked while they are read. Reads nothing itself.

Checking costs 0.23 CPU-seconds per GB, seventeen times what reading costs, and on two cores a quarter of the disk's
pace (docs/loader.md has the figures); a disk that gave the right bytes once gives them again until the file changes.
So by default a file is checked when this process first reads it, and again when its identity is another.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MODES: Final = ("first", "always", "never")


class DiskTrust:
    """What was read whole and found right since this process began. Safe to use from any thread."""

    def __init__(self, mode: str) -> None:
        """`mode` is `loader.verify`: first | always | never."""
        self._mode = mode
        self._lock = threading.Lock()
        self._seen: dict[Path, object] = {}

    def must_verify(self, path: Path, identity: object) -> bool:
        """Whether the file's bytes are to be compared with their digests this time."""
        if self._mode != "first":
            return self._mode == "always"
        with self._lock:
            return self._seen.get(path) != identity

    def is_right(self, identities: Mapping[Path, object]) -> bool:
        """Whether all of these files were found right, and are as they were then."""
        with self._lock:
            return all(self._seen.get(path) == identity for path, identity in identities.items())

    def note_right(self, identities: Mapping[Path, object]) -> None:
        """These files were read whole, each byte was checked, and all were right."""
        with self._lock:
            self._seen.update(identities)

    def forget(self, path: Path) -> None:
        """The file was found wrong, or was replaced."""
        with self._lock:
            self._seen.pop(path, None)
