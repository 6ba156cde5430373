# SPDX-License-Identifier: Apache-2.0
"""Map extents of one file back to back, so that a scattered region reads as one range of addresses.

Knows descriptors and ranges only; not what lies in them, nor who owns the file.

Lifetime: the address range lives as long as any view of it. Every memoryview slice, numpy array or tensor
made from `Mapping.view` keeps it alive, so that no order of closing can leave a view over unmapped memory.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from serverlessllm.arena import libc

HUGE_PAGE_BYTES: Final = 2 << 20
PAGE_BYTES: Final = 4096

Extent = tuple[int, int]
"""(file offset, nbytes), both multiples of 4 KiB."""


def coalesce(extents: Iterable[Extent]) -> list[Extent]:
    """Merge neighbours that also follow one another in the file; order is kept. Pure."""
    merged: list[Extent] = []
    for offset, nbytes in extents:
        if merged and sum(merged[-1]) == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + nbytes)
        else:
            merged.append((offset, nbytes))
    return merged


class Mapping:
    """A mapped range; made by `map_extents`. `nbytes` is the sum of the extents, `address` 2 MiB aligned."""

    def __init__(self, address: int, nbytes: int, *, reserved: tuple[int, int], writable: bool) -> None:
        """Take ownership of `reserved` (address, nbytes), which encloses the mapped range."""
        self.address = address
        self.nbytes = nbytes
        self._writable = writable
        memory = (ctypes.c_ubyte * nbytes).from_address(address)
        self._memory = weakref.ref(memory)
        self._finalizer = weakref.finalize(memory, libc.munmap, *reserved)
        # At interpreter exit other threads may still read; the kernel unmaps then.
        self._finalizer.atexit = False
        self._view: memoryview | None = self._export(memory)

    def _export(self, memory: ctypes.Array[ctypes.c_ubyte]) -> memoryview:
        view = memoryview(memory).cast("B")
        return view if self._writable else view.toreadonly()

    @property
    def view(self) -> memoryview:
        """All mapped bytes, format "B"; read-only unless mapped writable. Raises ValueError after `close`."""
        if self._view is None:
            raise ValueError("the mapping is closed")
        return self._view

    def close(self) -> None:
        """Unmap. Idempotent.

        Raises: BufferError while another reference to `view`, or an object made from it, is alive; the
        mapping then stays usable, and `close` may be called again.
        """
        self._view = None
        memory = self._memory()
        if memory is not None:
            self._view = self._export(memory)
            raise BufferError(
                f"cannot unmap {self.nbytes} bytes: views of them (slices, arrays or tensors) still live; "
                "drop them first"
            )


def map_extents(fd: int, extents: Sequence[Extent], *, writable: bool) -> Mapping:
    """Map `extents` of `fd` shared, in the given order, back to back from a 2 MiB aligned base.

    The descriptor may be closed afterwards. Cost: one system call per run of adjacent extents.
    Raises: ValueError for no extents or ones off the 4 KiB grid; OSError when the kernel refuses.
    """
    total = sum(nbytes for _, nbytes in extents)
    if total <= 0:
        raise ValueError("no bytes to map")
    for offset, nbytes in extents:
        if offset < 0 or nbytes <= 0 or offset % PAGE_BYTES or nbytes % PAGE_BYTES:
            raise ValueError(f"extent ({offset}, {nbytes}) is not on the {PAGE_BYTES}-byte grid")
    reserved_bytes = total + HUGE_PAGE_BYTES
    anonymous = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_NORESERVE
    reserved = libc.mmap(0, reserved_bytes, libc.PROT_NONE, anonymous)
    base = -(-reserved // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    protection = libc.PROT_READ | (libc.PROT_WRITE if writable else 0)
    at = base
    try:
        for offset, nbytes in coalesce(extents):
            libc.mmap(at, nbytes, protection, libc.MAP_SHARED | libc.MAP_FIXED, fd, offset)
            at += nbytes
    except OSError:
        libc.munmap(reserved, reserved_bytes)
        raise
    return Mapping(base, total, reserved=(reserved, reserved_bytes), writable=writable)


def touch_pages(mapping: Mapping, offset: int, nbytes: int) -> None:
    """Allocate the pages of a writable mapping's range (MADV_POPULATE_WRITE). What they hold stays as it is.

    Safe beside threads that write to the range. Raises: OSError when there is no memory for them.
    """
    libc.madvise(mapping.address + offset, nbytes, libc.MADV_POPULATE_WRITE)


def touch_view(view: memoryview) -> None:
    """As `touch_pages`, for a writable view that starts on a page. Where that is not possible, nothing happens: who
    writes to it will fault the pages in, or be told that there is no memory.
    """
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    with suppress(OSError):
        libc.madvise(address, len(view), libc.MADV_POPULATE_WRITE)


def populate(mapping: Mapping) -> None:
    """Map every page now (MADV_POPULATE_READ), so that the first reads do not fault. Never writes.

    Raises: OSError, EINVAL on kernels before 5.14.
    """
    libc.madvise(mapping.address, mapping.nbytes, libc.MADV_POPULATE_READ)
