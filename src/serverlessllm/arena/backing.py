# SPDX-License-Identifier: Apache-2.0
"""Where the arena file lies: our huge-page tmpfs under the data directory, else /dev/shm.

Knows paths and mounts; not what the file holds. Huge pages need a mount of their own (`huge=always`), and that
needs CAP_SYS_ADMIN, or an administrator who mounts it once.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import blake3

from serverlessllm.arena import libc
from serverlessllm.errors import ConfigError

SHM: Final = Path("/dev/shm")
OUR_MOUNT: Final = "serverlessllm"
SPARE_BYTES: Final = 64 << 20
"""Room in our tmpfs beyond the budget, for the table (a huge page per small file)."""


@dataclass(frozen=True, slots=True)
class Backing:
    """The arena file and its table in one tmpfs. `mount_point` is set for the huge-page tmpfs."""

    path: Path
    table_path: Path
    mount_point: Path | None

    @property
    def huge_pages(self) -> bool:
        return self.mount_point is not None

    def room_bytes(self) -> int:
        """Bytes that the arena file may hold here: what is free plus what it holds already."""
        status = os.statvfs(self.path.parent)
        return status.f_bavail * status.f_frsize + self._held_bytes()

    def foreign_bytes(self) -> int:
        """Bytes of this tmpfs that the arena file does not hold: a removed one that a worker still maps."""
        status = os.statvfs(self.path.parent)
        return (status.f_blocks - status.f_bfree) * status.f_frsize - self._held_bytes()

    def _held_bytes(self) -> int:
        return self.path.stat().st_blocks * 512 if self.path.exists() else 0

    def remove(self) -> None:
        """Delete file and table and unmount what we mounted; a mount that is still in use stays, empty."""
        for path in (self.path, self.table_path):
            path.unlink(missing_ok=True)
        if self.mount_point is not None and _mount_source(self.mount_point) == OUR_MOUNT:
            with suppress(OSError):
                libc.umount(str(self.mount_point))


def shm_backing(directory: Path) -> Backing:
    """The arena file in /dev/shm, named after a digest of the data directory."""
    digest = blake3.blake3(os.fsencode(directory.resolve())).hexdigest()[:16]
    stem = SHM / f"sllm-{digest}"
    return Backing(stem.with_suffix(".arena"), stem.with_suffix(".table"), None)


def huge_backing(directory: Path) -> Backing:
    """The arena file in the tmpfs on `directory`/huge, mounted or not."""
    point = directory.resolve() / "huge"
    return Backing(point / "arena", point / "table", point)


def _mount_fields(point: Path) -> tuple[str, str, str] | None:
    """(file system, source, options) of the topmost mount on `point`, from /proc/self/mountinfo."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        target = head.split()[4].encode().decode("unicode_escape").encode("latin-1")
        if target == os.fsencode(point):
            kind, source, options = tail.split(" ", 2)
            found = (kind, source, options)
    return found


def _mount_source(point: Path) -> str | None:
    fields = _mount_fields(point)
    return fields[1] if fields else None


def _mount(backing: Backing, point: Path, size_bytes: int) -> None:
    """Make sure that a huge-page tmpfs is on `point`. Raises OSError when that is not allowed."""
    point.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = "huge=always,mode=0700,size="
    fields = _mount_fields(point)
    if fields is None:
        libc.mount_tmpfs(OUR_MOUNT, str(point), f"{options}{size_bytes}")
    elif fields[0] != "tmpfs" or "huge=always" not in fields[2].split(","):
        raise OSError(f"{point} carries another mount ({fields[0]}, {fields[2]})")
    elif fields[1] == OUR_MOUNT:
        with suppress(PermissionError):
            grown_bytes = size_bytes + backing.foreign_bytes()
            libc.mount_tmpfs(OUR_MOUNT, str(point), f"{options}{grown_bytes}", remount=True)
    # Fails here, not at the first load, when an administrator's mount is not ours to write.
    os.close(os.open(backing.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def choose_backing(directory: Path, huge_pages: str, *, size_bytes: int) -> Backing:
    """The backing that `huge_pages` (auto | always | never) asks for; the other one's leftovers are removed.

    `size_bytes` is the most that the arena may hold. Raises: ConfigError for `always` without privilege.
    """
    huge, shm = huge_backing(directory), shm_backing(directory)
    if huge_pages != "never":
        try:
            _mount(huge, directory.resolve() / "huge", size_bytes + SPARE_BYTES)
        except OSError as error:
            if huge_pages == "always":
                raise ConfigError(
                    f"arena.huge_pages: always, but there is no huge-page tmpfs on {huge.mount_point} ({error}); "
                    "start as root or with CAP_SYS_ADMIN, or mount it once "
                    f"(mount -t tmpfs -o huge=always,uid={os.getuid()},mode=0700 tmpfs {huge.mount_point}), "
                    "or set arena.huge_pages to auto",
                    param="arena.huge_pages",
                    source="agent",
                ) from error
        else:
            shm.remove()
            return huge
    huge.remove()
    return shm
