# SPDX-License-Identifier: Apache-2.0
"""What was measured of this machine, remembered over restarts in `<data_dir>/profile.json`.

The one owner of that file: the engine keeps its dtypes here, `sllm tune io` what the disk gives. Measures nothing
itself. An unreadable file counts as empty: measuring again costs seconds, refusing to start costs everything.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

PROFILE_NAME: Final = "profile.json"


class IoProfile(msgspec.Struct, frozen=True):
    """The way to read this node's disk that `sllm tune io` found fastest, and what it gave.

    `bytes_per_s` was reached into memory touched before, on 2 MiB pages where there are any: what is possible.
    `range_bytes` and `num_connections` are the best for HTTP ranges, 0 when no URL was measured.
    `measured_at_s` is Unix time.
    """

    num_threads: int
    read_bytes: int
    is_direct: bool
    bytes_per_s: float
    measured_at_s: float
    range_bytes: int = 0
    num_connections: int = 0


class Measured(msgspec.Struct):
    """The file's content. `dtypes` maps a machine key (engine, version, CPU, threads) to a dtype."""

    dtypes: dict[str, str] = {}
    io: IoProfile | None = None


class NodeProfile:
    """The profile of one data directory. Changes of several processes follow one another; none is lost."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / PROFILE_NAME

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return self._path

    def read(self) -> Measured:
        """All that is known; empty values for what was not measured."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Measured)
        except (OSError, msgspec.MsgspecError):
            return Measured()

    def dtype(self, machine_key: str) -> str | None:
        """The dtype measured for `machine_key`, or None."""
        return self.read().dtypes.get(machine_key)

    def put_dtype(self, machine_key: str, dtype: str) -> None:
        """Remember `dtype` for `machine_key`. Raises OSError."""

        def change(measured: Measured) -> None:
            measured.dtypes[machine_key] = dtype

        self._change(change)

    def put_io(self, io: IoProfile) -> None:
        """Remember how to read the disk. Raises OSError."""

        def change(measured: Measured) -> None:
            measured.io = io

        self._change(change)

    def _change(self, change: Callable[[Measured], None]) -> None:
        """Read, change, replace as a whole, with the directory locked against other writers."""
        fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            measured = self.read()
            change(measured)
            aside = self._path.with_suffix(".tmp")
            aside.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=2))
            aside.replace(self._path)
        finally:
            os.close(fd)
