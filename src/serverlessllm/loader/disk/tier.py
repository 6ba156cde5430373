# SPDX-License-Identifier: Apache-2.0
"""The NVMe tier: artifacts on this node's disk, their budget, and what lies beside them.

    <revision>/            an artifact, whole and immutable
    .fetch-<revision>/     one that is being fetched or repaired; resumed by the next load
    .bad/                  files whose bytes were wrong, put aside for who wants to know why
    .tmp-…/                one that is being written (checkpoint/staging.py)

Knows sizes, ages and origins; not the arena, and not how bytes are fetched.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serverlessllm.checkpoint import staging
from serverlessllm.clock import Clock
from serverlessllm.errors import DiskFullError
from serverlessllm.loader.disk.record import NvmeRecord
from serverlessllm.loader.evict import EvictionCandidate, choose_victims
from serverlessllm.types import is_revision
from serverlessllm.wire.disk import CopyKind

FETCH_PREFIX: Final = ".fetch-"
BAD_NAME: Final = ".bad"
RESERVE_RATIO: Final = 0.05
"""Share of the file system that is left free when no budget is set."""


@dataclass(frozen=True, slots=True)
class NvmeCopy:
    """One thing on the disk. `revision` is empty where it belongs to none; `last_used_s` is Unix time."""

    path: Path
    kind: CopyKind
    revision: str
    nbytes: int
    last_used_s: float
    origins: tuple[str, ...] = ()


class NvmeTier:
    """The artifacts' directory of one node. Methods block on the file system, shortly."""

    def __init__(self, directory: Path, budget_bytes: int, clock: Clock) -> None:
        """`budget_bytes` 0 takes all of the file system but `RESERVE_RATIO`."""
        self.directory = directory
        self.record = NvmeRecord(directory)
        self.budget_bytes = budget_bytes
        self._clock = clock

    def artifact_path(self, revision: str) -> Path:
        """Where the revision's artifact lies, or would."""
        return self.directory / revision

    def fetch_path(self, revision: str) -> Path:
        """Where it lies while it is being fetched."""
        return self.directory / f"{FETCH_PREFIX}{revision}"

    def note_use(self, revision: str, origins: Sequence[str]) -> None:
        """The revision was read from or written to the disk. A record that cannot be written is done without."""
        try:
            self.record.note_use(revision, origins, now_s=self._clock.wall_s())
        except OSError:
            return

    def copies(self) -> list[NvmeCopy]:
        """All that lies in the directory, whole artifacts first, each kind by name."""
        if not self.directory.is_dir():
            return []
        records = self.record.read()
        found: list[NvmeCopy] = []
        for path in sorted(self.directory.iterdir()):
            kind, revision = _kind(path)
            if kind is None:
                continue
            known = records.get(revision)
            last_used_s = known.last_used_s if known is not None else path.stat().st_mtime
            origins = tuple(known.origins) if known is not None else ()
            found.append(NvmeCopy(path, kind, revision, held_bytes(path), last_used_s, origins))
        return sorted(found, key=lambda copy: copy.kind != "artifact")

    def room_bytes(self) -> int:
        """Bytes that may be written now; less than 0 when the budget was lowered below what is here."""
        usage = shutil.disk_usage(next(p for p in (self.directory, *self.directory.parents) if p.is_dir()))
        if self.budget_bytes:
            used_bytes = sum(copy.nbytes for copy in self.copies())
            return min(self.budget_bytes - used_bytes, usage.free)
        return usage.free - int(usage.total * RESERVE_RATIO)

    def make_room(
        self, revision: str, need_bytes: int, *, in_use: Container[str], restore_rate: float
    ) -> list[str]:
        """Make sure that `need_bytes` may be written for `revision`; returns what was evicted for it.

        Quarantined files go first, then copies that an origin can bring back (at `restore_rate` bytes/s) and
        that nobody uses, least valuable first. Raises: DiskFullError when that does not suffice; then no
        artifact was evicted.
        """
        if need_bytes <= self.room_bytes():
            return []
        self.clean(kinds=("quarantined",))
        missing_bytes = need_bytes - self.room_bytes()
        if missing_bytes <= 0:
            return []
        copies = {copy.revision: copy for copy in self.copies() if copy.kind in ("artifact", "fetching")}
        now_s = self._clock.wall_s()
        candidates = [
            EvictionCandidate(
                revision=copy.revision,
                held_bytes=max(1, copy.nbytes),
                restore_s=copy.nbytes / restore_rate,
                idle_s=max(0.0, now_s - copy.last_used_s),
                is_evictable=bool(copy.origins) and copy.revision not in in_use and copy.revision != revision,
            )
            for copy in copies.values()
        ]
        victims = choose_victims(candidates, missing_bytes)
        if victims is None:
            raise self._no_room(revision, need_bytes)
        for victim in victims:
            self.remove(copies[victim])
        return victims

    def remove(self, copy: NvmeCopy) -> None:
        """Delete one thing; an artifact vanishes in one step, before its files go."""
        if copy.kind == "artifact":
            aside = copy.path.with_name(f"{staging.PREFIX}evicted-{copy.revision}")
            copy.path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
            self.record.forget(copy.revision)
        elif copy.path.is_dir():
            shutil.rmtree(copy.path, ignore_errors=True)
        else:
            copy.path.unlink(missing_ok=True)

    def forget(self, revision: str) -> None:
        """The revision's artifact is gone. A record that cannot be written is done without."""
        with suppress(OSError):
            self.record.forget(revision)

    def clean(self, *, kinds: Container[CopyKind]) -> list[NvmeCopy]:
        """Delete everything of these kinds; returns it. Directories that a process is writing stay."""
        removed = [copy for copy in self.copies() if copy.kind in kinds and not _is_owned(copy)]
        for copy in removed:
            self.remove(copy)
        return removed

    def quarantine(self, path: Path) -> Path | None:
        """Put a file of an artifact aside, under `.bad/`; the place, or None when it is gone already."""
        target = self._bad_place(path)
        try:
            path.rename(target)
        except FileNotFoundError:
            return None
        staging.fsync_directory(path.parent)
        return target

    def replace_file(self, new: Path, place: Path) -> None:
        """Put a whole, durable file in the place of a wrong or missing one, in one step; the old one to `.bad/`.

        Raises OSError; then the old one is still in its place.
        """
        if place.exists():
            with suppress(OSError):  # a file system without hard links: the old one is then lost, not kept
                self._bad_place(place).hardlink_to(place)
        new.replace(place)
        staging.fsync_directory(place.parent)

    def mend(self, directory: Path, files: Mapping[str, bytes]) -> None:
        """Write small files of an artifact that is here anew, durably, each in one step. Raises OSError."""
        for name, data in files.items():
            aside = directory / f".{name}.new"
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.replace_file(aside, directory / name)

    def _bad_place(self, path: Path) -> Path:
        """A free name in the quarantine."""
        aside = self.directory / BAD_NAME
        aside.mkdir(parents=True, exist_ok=True)
        stem = f"{path.parent.name.removeprefix(FETCH_PREFIX)}-{path.name}"
        return next(
            place for number in itertools.count() if not (place := aside / f"{stem}.{number}").exists()
        )

    def _no_room(self, revision: str, need_bytes: int) -> DiskFullError:
        return DiskFullError(
            f"revision {revision} needs {need_bytes} bytes of disk in {self.directory}, {max(0, self.room_bytes())} "
            "may be written and nothing more can be evicted; free some space (`sllm disk`), or raise "
            "loader.nvme_budget_bytes",
            source="agent",
        )


def _kind(path: Path) -> tuple[CopyKind | None, str]:
    name = path.name
    if is_revision(name) and path.is_dir():
        return "artifact", name
    if name.startswith(FETCH_PREFIX):
        return "fetching", name.removeprefix(FETCH_PREFIX)
    if name == BAD_NAME:
        return ("quarantined", "") if any(path.iterdir()) else (None, "")
    if name.startswith(staging.PREFIX):
        return "leftover", ""
    return None, ""


def _is_owned(copy: NvmeCopy) -> bool:
    """Whether a living process holds the directory (`StagingDirectory`, or a fetch)."""
    return copy.kind in ("fetching", "leftover") and staging.is_owned(copy.path)


def held_bytes(path: Path) -> int:
    """Bytes on the disk below a directory; files that vanish meanwhile count nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_blocks * 512
            except FileNotFoundError:
                continue
    return total
