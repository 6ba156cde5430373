# SPDX-License-Identifier: Apache-2.0
"""Drop one file from the page cache and prove it. Never the whole machine's cache: machines are shared."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def drop(path: Path) -> None:
    """Write back and forget the file's pages. Raises OSError if more than 1 % of them stay resident."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        for _ in range(5):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if resident_ratio(fd) < 0.01:
                return
    finally:
        os.close(fd)
    raise OSError(f"{path} stays in the page cache; is it mapped by a running process?")


def fill(path: Path) -> None:
    """Read the file into the page cache. Raises OSError if less than 99 % of its pages stay there."""
    with path.open("rb", buffering=0) as file:
        while file.read(8 << 20):
            pass
        if resident_ratio(file.fileno()) < 0.99:
            raise OSError(f"{path} does not stay in the page cache; is there too little memory?")


def resident_ratio(fd: int) -> float:
    """Share of the file's pages that are in the page cache (mincore)."""
    nbytes = os.fstat(fd).st_size
    address = _libc.mmap(None, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    pages = (ctypes.c_ubyte * -(-nbytes // mmap.PAGESIZE))()
    try:
        if _libc.mincore(address, nbytes, ctypes.byref(pages)) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
    finally:
        _libc.munmap(address, nbytes)
    return sum(page & 1 for page in bytes(pages)) / len(pages)
