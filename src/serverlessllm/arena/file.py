# SPDX-License-Identifier: Apache-2.0
"""The arena file as its one owner holds it: lock, descriptor, geometry, table. Knows no free list, no regions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from serverlessllm.arena import libc, table
from serverlessllm.arena.backing import Backing, choose_backing
from serverlessllm.arena.lock import ArenaLock
from serverlessllm.arena.mapping import HUGE_PAGE_BYTES, Extent, Mapping, map_extents
from serverlessllm.arena.memory import choose_budget_bytes, machine_memory_bytes
from serverlessllm.arena.pin import is_range_pinned
from serverlessllm.config import ArenaConfig
from serverlessllm.errors import CapacityError, ConfigError


class ArenaFile:
    """Open it with `ArenaFile.open`. `num_extents` of `extent_bytes` each are the budget."""

    def __init__(
        self, lock: ArenaLock, backing: Backing, fd: int, *, num_extents: int, extent_bytes: int
    ) -> None:
        """Take over `lock` and `fd`."""
        self.backing = backing
        self.num_extents = num_extents
        self.extent_bytes = extent_bytes
        self._lock = lock
        self._fd = fd
        # Never shrinks: a worker of a dead agent may still map what lies beyond a budget that was lowered.
        os.ftruncate(fd, max(num_extents * extent_bytes, self.size_bytes))

    @classmethod
    def open(cls, directory: Path, config: ArenaConfig) -> ArenaFile:
        """Lock the arena of `directory` and open its file, new or old.

        Raises: ConflictError when another process has it; ConfigError naming the setting to change.
        """
        grain = config.extent_bytes
        if grain <= 0 or grain % HUGE_PAGE_BYTES:
            raise _config_error("extent_bytes", f"{grain} is not a multiple of 2 MiB")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as undo:
            lock = ArenaLock(directory)
            undo.callback(lock.release)
            backing, budget_bytes = _choose(directory, config)
            if budget_bytes < grain:
                raise _config_error("budget_bytes", f"{budget_bytes} bytes do not hold one extent of {grain}")
            fd = os.open(backing.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            undo.callback(os.close, fd)
            opened = cls(lock, backing, fd, num_extents=budget_bytes // grain, extent_bytes=grain)
            undo.pop_all()
        return opened

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    @property
    def size_bytes(self) -> int:
        """Size of the sparse file; at least the budget."""
        return os.fstat(self._fd).st_size

    def extent(self, indices: range) -> Extent:
        """The byte range of a run of neighbouring extents."""
        return indices.start * self.extent_bytes, len(indices) * self.extent_bytes

    def map(self, extents: Sequence[Extent]) -> Mapping:
        """The extents mapped back to back, writable. Raises OSError."""
        return map_extents(self._fd, extents, writable=True)

    def punch(self, extent: Extent) -> None:
        """Give the extent's memory back to the machine."""
        libc.punch_hole(self._fd, *extent)

    def is_pinned(self, extents: Iterable[Extent]) -> bool:
        """Whether any process pins a byte of `extents`."""
        return any(is_range_pinned(self._fd, extent) for extent in extents)

    def read_table(self) -> list[table.TableEntry]:
        """The rows of the table that a former owner left, if it is whole and of our geometry."""
        found = table.read(self.backing.table_path)
        return found.regions if found is not None and found.extent_bytes == self.extent_bytes else []

    def write_table(self, rows: list[table.TableEntry]) -> None:
        """Replace the table. Raises CapacityError; then the old one stands."""
        try:
            table.write(self.backing.table_path, table.Table(self.extent_bytes, rows))
        except OSError as error:
            raise CapacityError(
                f"cannot write the arena's table {self.backing.table_path}: {error}; free some memory",
                source="agent",
            ) from error

    def close(self, *, keep: bool) -> None:
        """Close, unlock; without `keep` delete file, table and mount. Idempotent."""
        if not self.is_open:
            return
        os.close(self._fd)
        self._fd = -1
        if not keep:
            self.backing.remove()
        self._lock.release()


def _config_error(key: str, problem: str) -> ConfigError:
    name = f"arena.{key}"
    return ConfigError(f"{name}: {problem}; change {name}", param=name, source="agent")


def _choose(directory: Path, config: ArenaConfig) -> tuple[Backing, int]:
    """Where the file goes and how much it may hold."""
    memory_bytes = machine_memory_bytes()
    wanted_bytes = choose_budget_bytes(
        config.budget_bytes, memory_bytes=memory_bytes, room_bytes=memory_bytes, where=str(directory)
    )
    backing = choose_backing(directory, config.huge_pages, size_bytes=wanted_bytes)
    budget_bytes = choose_budget_bytes(
        config.budget_bytes,
        memory_bytes=memory_bytes,
        room_bytes=backing.room_bytes(),
        where=str(backing.path.parent),
    )
    return backing, budget_bytes
