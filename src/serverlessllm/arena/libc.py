# SPDX-License-Identifier: Apache-2.0
"""The few system calls that Python's `os` and `mmap` lack, as functions that raise `OSError`.

Knows nothing of arenas. Linux only, 64 bit.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

PROT_NONE: Final = 0
PROT_READ: Final = 1
PROT_WRITE: Final = 2
MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_NORESERVE: Final = 0x4000
MADV_HUGEPAGE: Final = 14
MADV_NOHUGEPAGE: Final = 15
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
_FALLOC_KEEP_SIZE: Final = 1
_FALLOC_PUNCH_HOLE: Final = 2
_MNT_DETACH: Final = 2
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


def _failed(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


def mmap(address: int, nbytes: int, protection: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    """mmap(2); returns the address."""
    found = _libc.mmap(address or None, nbytes, protection, flags, fd, offset)
    if found is None or found == _MAP_FAILED:
        raise _failed(f"mmap of {nbytes} bytes at file offset {offset}")
    return int(found)


def munmap(address: int, nbytes: int) -> None:
    """munmap(2)."""
    if _libc.munmap(address, nbytes):
        raise _failed(f"munmap of {nbytes} bytes")


def madvise(address: int, nbytes: int, advice: int) -> None:
    """madvise(2)."""
    if _libc.madvise(address, nbytes, advice):
        raise _failed(f"madvise({advice}) of {nbytes} bytes")


def copy(target: memoryview, address: int) -> None:
    """Fill the writable byte view from mapped memory. Other threads run meanwhile."""
    ctypes.memmove((ctypes.c_ubyte * len(target)).from_buffer(target), address, len(target))


def punch_hole(fd: int, offset: int, nbytes: int) -> None:
    """Give the pages of a file range back; the range reads as zeros afterwards, the size stays."""
    if _libc.fallocate(fd, _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, offset, nbytes):
        raise _failed(f"fallocate(PUNCH_HOLE) of {nbytes} bytes at {offset}")


def mount_tmpfs(source: str, target: str, options: str, *, remount: bool = False) -> None:
    """Mount a tmpfs named `source` on `target` (nosuid, nodev, noexec); `options` as in mount(8).

    `remount` gives the tmpfs that is there new options; its files stay.
    """
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | (MS_REMOUNT if remount else 0)
    if _libc.mount(source.encode(), os.fsencode(target), b"tmpfs", flags, options.encode()):
        raise _failed(f"mount of a tmpfs on {target}")


def umount(target: str, *, detach: bool = False) -> None:
    """umount2(2): fails with EBUSY while a file is open or mapped. `detach`: the mount point is free at once, the
    file system goes with the last file."""
    if _libc.umount2(os.fsencode(target), _MNT_DETACH if detach else 0):
        raise _failed(f"umount of {target}")
