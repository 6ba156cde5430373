# SPDX-License-Identifier: Apache-2.0
"""Origins of a load that are directories of this machine, with faults: bytes counted, flipped, held up, cut off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from serverlessllm.errors import CorruptDataError, UnreachableError
from serverlessllm.types import Tier


class DirectoryOrigins:
    """Its `open` is an `OriginOpener`; an origin is the path of a directory.

    `read_bytes` counts weights by origin. `liars` flip one bit in all that they send of weights, `dead` ones do not
    answer. The first answer with a file of `flip_once` has one bit flipped. `before_read(origin, offset)` is
    called before each read of weights.
    """

    def __init__(self) -> None:
        self.read_bytes: dict[str, int] = {}
        self.liars: set[str] = set()
        self.dead: set[str] = set()
        self.flip_once: set[str] = set()
        self.before_read: Callable[[str, int], None] = lambda origin, offset: None
        self._lock = threading.Lock()

    def open(self, origin: str, name: str) -> _OriginFile:
        """See `loader.manifest.OriginOpener`."""
        if origin in self.dead:
            raise UnreachableError(f"{origin} does not answer")
        path = Path(origin) / name
        if not path.is_file():
            raise CorruptDataError(f"{path} is missing")
        return _OriginFile(self, origin, path)

    def count(self, origin: str, nbytes: int) -> None:
        with self._lock:
            self.read_bytes[origin] = self.read_bytes.get(origin, 0) + nbytes


class _OriginFile:
    """One file of an origin; a `Source`."""

    tier: Tier = "remote"

    def __init__(self, origins: DirectoryOrigins, origin: str, path: Path) -> None:
        self.name = str(path)
        self._origins = origins
        self._origin = origin
        self._path = path
        self._is_weights = path.suffix == ".bin"

    @property
    def size(self) -> int:
        return self._path.stat().st_size

    @property
    def identity(self) -> object:
        return self._path.stat().st_ino

    def read_into(self, offset: int, view: memoryview) -> int:
        if self._is_weights:
            self._origins.before_read(self._origin, offset)
        if self._origin in self._origins.dead:
            raise UnreachableError(f"{self._origin} does not answer")
        with self._path.open("rb") as file:
            file.seek(offset)
            count = file.readinto(view)
        if self._is_weights:
            self._origins.count(self._origin, count)
        if self._must_flip():
            view[0] ^= 1
        return count

    def _must_flip(self) -> bool:
        if self._path.name in self._origins.flip_once:
            self._origins.flip_once.remove(self._path.name)
            return True
        return self._is_weights and self._origin in self._origins.liars

    def close(self) -> None:
        return
