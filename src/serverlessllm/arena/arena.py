# SPDX-License-Identifier: Apache-2.0
"""The DRAM tier of one node: regions in the extents of one tmpfs file, which outlives the agent.

Knows revisions and byte ranges; not models, tensors, or where bytes come from. What is whole is listed in the
table beside the file, so that the next agent can adopt it; who still reads is what the kernel's locks say.
All methods are synchronous, short (no I/O but the table's rename) and safe to call from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from serverlessllm.arena.adoption import adoptable, covered
from serverlessllm.arena.extents import ExtentPool, runs
from serverlessllm.arena.file import ArenaFile
from serverlessllm.arena.mapping import HUGE_PAGE_BYTES, coalesce, touch_pages
from serverlessllm.arena.pin import Pin
from serverlessllm.arena.region import ArenaEntry, Region, page_rounded
from serverlessllm.arena.table import TableEntry
from serverlessllm.clock import Clock, SystemClock
from serverlessllm.config import ArenaConfig
from serverlessllm.errors import (
    CapacityError,
    ConflictError,
    InsufficientMemoryError,
    InvalidRequestError,
    NotFoundError,
)
from serverlessllm.types import is_revision


class Arena:
    """Owner of the arena file of one data directory; open it with `Arena.open`.

    A region: allocate → loading → publish → whole → release; release is possible from both states.
    `budget_bytes` is the most that regions may hold; `adopted` are the revisions found whole at `open`.
    """

    def __init__(self, file: ArenaFile, *, clock: Clock) -> None:
        """Adopt what is whole in `file` and clear the rest."""
        self._file = file
        self._clock = clock
        self._mutex = threading.RLock()
        rows = adoptable(file.read_table(), extent_bytes=file.extent_bytes, num_extents=file.num_extents)
        self._regions = {
            row.revision: Region(
                row.revision,
                row.nbytes,
                row.extents,
                mapping=None,
                last_used_s=row.last_used_s,
                verified=False,
            )
            for row in rows
        }
        self.adopted = tuple(self._regions)
        self.extent_bytes = file.extent_bytes
        self.budget_bytes = file.num_extents * file.extent_bytes
        self._write_table(self._whole())
        held = {index for row in rows for index in covered(row.extents, self.extent_bytes)}
        # Extents that no region holds but a worker of a dead agent still pins: they wait for its end.
        self._stray = {i for i in range(-(-file.size_bytes // self.extent_bytes)) if i not in held}
        self._pool = ExtentPool(())
        self._collect_stray(is_opening=True)

    @classmethod
    def open(cls, directory: Path, config: ArenaConfig, *, clock: Clock | None = None) -> Arena:
        """Open the arena of a data directory, adopting what is whole there and clearing the rest.

        Raises: ConflictError when another process has it open; ConfigError for settings that this machine
        cannot meet, naming what to change; CapacityError when its tmpfs is full.
        """
        file = ArenaFile.open(directory, config)
        try:
            return cls(file, clock=clock or SystemClock())
        except BaseException:
            file.close(keep=True)
            raise

    @property
    def path(self) -> Path:
        """The arena file; workers map it by the descriptor of a pin."""
        return self._file.backing.path

    @property
    def huge_pages(self) -> bool:
        """Whether the file lies on 2 MiB pages."""
        return self._file.backing.huge_pages

    @property
    def location(self) -> str:
        """Where the bytes lie and on which pages, for a human."""
        if self.huge_pages:
            return f"{self.path} (tmpfs with 2 MiB pages)"
        return f"{self.path} (4 KiB pages; as root or with CAP_SYS_ADMIN, 2 MiB pages load twice as fast)"

    @property
    def used_bytes(self) -> int:
        """Bytes of the budget that are held, in whole extents."""
        return self.budget_bytes - self.free_bytes

    @property
    def free_bytes(self) -> int:
        """Bytes that `allocate` can give now, in whole extents."""
        with self._mutex:
            self._collect_stray()
            return self._pool.num_free * self.extent_bytes

    @property
    def touched_free_bytes(self) -> int:
        """Free bytes whose pages are allocated already: a load into them pays no first touch."""
        with self._mutex:
            return len(self._pool.touched) * self.extent_bytes

    def touch_free(self, target_bytes: int, *, pause: Callable[[float], bool]) -> int:
        """Touch the pages of one more free extent while fewer than `target_bytes` are; returns its bytes, or 0.

        The extent stays free meanwhile: a region may take it, and loses nothing by that. `pause` is called
        after each step of 2 MiB with the seconds it took; True ends the work early.
        Raises: OSError when there is no memory.
        """
        with self._mutex:
            index = self._pool.untouched()
            if index is None or self.touched_free_bytes + self.extent_bytes > target_bytes:
                return 0
            mapping = self._file.map([self._file.extent(range(index, index + 1))])
        for offset in range(0, self.extent_bytes, HUGE_PAGE_BYTES):
            started_s = self._clock.monotonic_s()
            touch_pages(mapping, offset, HUGE_PAGE_BYTES)
            if pause(self._clock.monotonic_s() - started_s):
                return 0
        with self._mutex:
            self._pool.mark_touched(index)
        return self.extent_bytes

    def held_bytes(self, nbytes: int) -> int:
        """What a region of `nbytes` takes from the budget: whole extents."""
        return -(-nbytes // self.extent_bytes) * self.extent_bytes

    def entries(self) -> list[ArenaEntry]:
        """Every region, loading ones included, in order of allocation."""
        with self._mutex:
            return [
                ArenaEntry(
                    revision=region.revision,
                    nbytes=region.nbytes,
                    held_bytes=self.held_bytes(region.nbytes),
                    complete=region.complete,
                    pinned=self._file.is_pinned(region.extents),
                    verified=region.verified,
                    last_used_s=region.last_used_s,
                )
                for region in self._regions.values()
            ]

    def get(self, revision: str) -> Region | None:
        """The whole region of `revision`; None when it is absent or still loading."""
        with self._mutex:
            region = self._regions.get(revision)
            return region if region is not None and region.complete else None

    def allocate(self, revision: str, nbytes: int) -> Region:
        """Room for a revision, mapped writable. Its pages may hold old bytes: overwrite all of them.

        Raises: InsufficientMemoryError when it can never fit, CapacityError when it does not fit now;
        ConflictError when the revision is here already; InvalidRequestError for a malformed one.
        """
        if not is_revision(revision) or nbytes <= 0:
            raise InvalidRequestError(
                f"cannot hold {nbytes} bytes as revision {revision!r}", param="revision"
            )
        with self._mutex:
            if revision in self._regions:
                raise ConflictError(f"revision {revision} is in the arena already", source="agent")
            self._check_room(revision, self.held_bytes(nbytes))
            indices = self._pool.take(self.held_bytes(nbytes) // self.extent_bytes)
            try:
                region = self._map(revision, nbytes, indices)
            except OSError as error:
                self._pool.give(indices, touched=True)
                raise CapacityError(
                    f"cannot map {nbytes} bytes for {revision}: {error}", source="agent"
                ) from error
            self._regions[revision] = region
            return region

    def publish(self, region: Region) -> None:
        """Declare a region whole: from now on it is served, pinned and adopted. Drops its writable mapping.

        Call it when no thread writes any more. Raises: ConflictError when it was released or is whole
        already; CapacityError when the table cannot be written (the region then stays a loading one).
        """
        with self._mutex:
            if self._regions.get(region.revision) is not region or region.complete:
                raise ConflictError(f"region {region.revision} is not one that is loading", source="agent")
            region.last_used_s = self._clock.monotonic_s()
            region.clear_tail()
            self._write_table([*self._whole(), region])
            region.seal()

    def release(self, revision: str) -> None:
        """Free a region, whole or loading. Its pages stay with the arena, for the next region to overwrite.

        Call it for a loading region only when no thread writes to it any more.
        Raises: NotFoundError; ConflictError while a worker pins it.
        """
        with self._mutex:
            region = self._region(revision)
            if self._file.is_pinned(region.extents):
                raise ConflictError(
                    f"revision {revision} is in use by a worker; unload its replica first", source="agent"
                )
            if region.complete:
                self._write_table([other for other in self._whole() if other is not region])
            del self._regions[revision]
            region.drop()
            self._pool.give(covered(region.extents, self.extent_bytes), touched=True)

    def discard(self, region: Region) -> None:
        """Drop a region whose bytes are wrong or will not come, even if a worker still maps it: nobody gets it.

        What is pinned becomes free when its pins are gone. Does nothing to a region that was released before.
        """
        with self._mutex:
            if self._regions.get(region.revision) is not region:
                return
            if region.complete:
                self._write_table([other for other in self._whole() if other is not region])
            del self._regions[region.revision]
            region.drop()
            indices = set(covered(region.extents, self.extent_bytes))
            pinned = {i for i in indices if self._file.is_pinned([self._file.extent(range(i, i + 1))])}
            self._stray |= pinned
            self._pool.give(indices - pinned, touched=True)

    def touch(self, revision: str) -> None:
        """Note that the revision was used now. Raises NotFoundError."""
        with self._mutex:
            self._region(revision).last_used_s = self._clock.monotonic_s()

    def pin(self, revision: str, *, incomplete: bool = False) -> Pin:
        """Hold a whole region for a worker, until every copy of the pin's descriptor and its mappings are gone.

        `incomplete`: also one that is loading, for a worker that waits for its bytes.
        Raises: NotFoundError when the revision is not whole here, or with `incomplete` not here at all.
        """
        with self._mutex:
            region = self._region(revision)
            if not region.complete and not incomplete:
                raise NotFoundError(f"revision {revision} is still loading", source="agent")
            region.last_used_s = self._clock.monotonic_s()
            return Pin(self.path, region.extents)

    def is_pinned(self, revision: str) -> bool:
        """Whether any process holds a pin on it; the kernel says. Raises NotFoundError."""
        with self._mutex:
            return self._file.is_pinned(self._region(revision).extents)

    def close(self, keep: bool) -> None:
        """Let go of the arena: `keep` leaves whole regions for the next agent, else file and mount go too.

        Idempotent. Loading regions are dropped: stop the loads first. Workers that map a region keep its bytes.
        """
        with self._mutex:
            if not self._file.is_open:
                return
            for region in [region for region in self._regions.values() if not region.complete]:
                self.discard(region)
            if keep:
                self._write_table(self._whole())
                for run in runs(self._pool.touched):
                    self._file.punch(self._file.extent(run))
            self._file.close(keep=keep)

    def _region(self, revision: str) -> Region:
        if revision not in self._regions:
            raise NotFoundError(f"revision {revision} is not in the arena", source="agent")
        return self._regions[revision]

    def _whole(self) -> list[Region]:
        return [region for region in self._regions.values() if region.complete]

    def _write_table(self, regions: list[Region]) -> None:
        self._file.write_table([TableEntry(r.revision, r.nbytes, r.extents, r.last_used_s) for r in regions])

    def _check_room(self, revision: str, need_bytes: int) -> None:
        if need_bytes > self.budget_bytes:
            raise InsufficientMemoryError(
                f"revision {revision} needs {need_bytes} bytes of DRAM, the arena has {self.budget_bytes} in all; "
                "raise arena.budget_bytes",
                source="agent",
            )
        if need_bytes > self.free_bytes:
            raise CapacityError(
                f"revision {revision} needs {need_bytes} bytes of DRAM, {self.free_bytes} are free; "
                "release other revisions first",
                source="agent",
            )

    def _map(self, revision: str, nbytes: int, indices: list[int]) -> Region:
        whole = [self._file.extent(range(index, index + 1)) for index in indices]
        last_bytes = page_rounded(nbytes) - (len(whole) - 1) * self.extent_bytes
        extents = coalesce([*whole[:-1], (whole[-1][0], last_bytes)])
        mapping = self._file.map(extents)
        return Region(revision, nbytes, extents, mapping=mapping, last_used_s=self._clock.monotonic_s())

    def _collect_stray(self, *, is_opening: bool = False) -> None:
        """Stray extents whose pins are gone become free inside the budget, and go back to the system beyond it.

        Later than at the opening those inside keep their pages: slots on a GPU may have page-locked them.
        """
        gone = {i for i in self._stray if not self._file.is_pinned([self._file.extent(range(i, i + 1))])}
        free = {i for i in gone if i < self._file.num_extents}
        punched = gone if is_opening else gone - free
        for run in runs(punched):
            self._file.punch(self._file.extent(run))
        self._stray -= gone
        self._pool.give(free, touched=not is_opening)
