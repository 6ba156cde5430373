# SPDX-License-Identifier: Apache-2.0
"""Touched memory for measurements, on pages of a known size, as the arena has them. It has no name anywhere, so it
goes with the process, however that ends. Knows nothing of what is measured.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serverlessllm.arena import libc
from serverlessllm.arena.mapping import HUGE_PAGE_BYTES, PAGE_BYTES, Mapping, map_extents, touch_pages

_SPARE_BYTES: Final = 4 << 20
_HUGE_ENOUGH: Final = 0.9
_VMA: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")


@dataclass(frozen=True, slots=True)
class Scratch:
    """Writable memory; `page_bytes` are the pages that it really has, 4 KiB or 2 MiB."""

    mapping: Mapping
    page_bytes: int

    @property
    def view(self) -> memoryview:
        """All of it."""
        return self.mapping.view


@contextmanager
def scratch(nbytes: int, *, huge: bool) -> Iterator[Scratch]:
    """`nbytes`, rounded up to 2 MiB and touched. `huge` asks for pages of 2 MiB: look at what came of it.

    Raises: OSError when there is no memory; BufferError at the end while slices of the view are kept.
    """
    total = -(-nbytes // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    fd = _tmpfs_file(total, huge=huge)
    try:
        mapping = map_extents(fd, [(0, total)], writable=True)
    finally:
        os.close(fd)
    touch_pages(mapping, 0, total)
    is_huge = huge and _huge_ratio(mapping) >= _HUGE_ENOUGH
    yield Scratch(mapping, HUGE_PAGE_BYTES if is_huge else PAGE_BYTES)
    mapping.close()


def _tmpfs_file(nbytes: int, *, huge: bool) -> int:
    """A nameless file: in a tmpfs of its own with huge pages where we may mount one, else a memfd."""
    if huge:
        try:
            return _huge_file(nbytes)
        except OSError:
            pass  # no privilege: the caller sees it in `page_bytes`
    fd = os.memfd_create("sllm-scratch", os.MFD_CLOEXEC)
    os.ftruncate(fd, nbytes)
    return fd


def _huge_file(nbytes: int) -> int:
    with tempfile.TemporaryDirectory(prefix="sllm-scratch-") as point:
        options = f"huge=always,mode=0700,size={nbytes + _SPARE_BYTES}"
        libc.mount_tmpfs("sllm-scratch", point, options)
        try:
            fd = os.open(point, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        finally:
            libc.umount(point, detach=True)
    os.ftruncate(fd, nbytes)
    return fd


def _huge_ratio(mapping: Mapping) -> float:
    """Share of a touched mapping that the kernel maps in 2 MiB pages."""
    is_ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        found = _VMA.match(line)
        if found is not None:
            is_ours = int(found[1], 16) <= mapping.address < int(found[2], 16)
        elif is_ours and line.startswith("ShmemPmdMapped:"):
            return int(line.split()[1]) * 1024 / mapping.nbytes
    return 0.0
