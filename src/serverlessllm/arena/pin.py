# SPDX-License-Identifier: Apache-2.0
"""Pins: read locks on byte ranges of the arena file, owned by an open file description.

Knows no revisions. The kernel drops such a lock when the last descriptor *and* the last mapping made from the
description are gone: a pin dies with the worker that holds it, and outlives the agent that made it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from serverlessllm.arena.mapping import Extent

_F_OFD_GETLK: Final = 36
_F_OFD_SETLK: Final = 37
# struct flock: l_type, l_whence, l_start, l_len, l_pid (must be 0), padded to 8 bytes.
_FLOCK: Final = struct.Struct("@hhqqi4x")


def _flock(kind: int, extent: Extent) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, extent[0], extent[1], 0)


def is_range_pinned(fd: int, extent: Extent) -> bool:
    """Whether another open file description than `fd`'s holds a pin on any byte of `extent`."""
    answer = fcntl.fcntl(fd, _F_OFD_GETLK, _flock(fcntl.F_WRLCK, extent))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


class Pin:
    """One hold on a region. Pass `fd` to the worker (SCM_RIGHTS), then `close` our copy.

    The worker may map through `fd` and close it: the mapping keeps the description, and so the pin, alive.
    """

    def __init__(self, path: Path, extents: Iterable[Extent]) -> None:
        """Open `path` anew, read-only, and lock `extents`. Raises OSError; then nothing stays open."""
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for extent in extents:
                fcntl.fcntl(self.fd, _F_OFD_SETLK, _flock(fcntl.F_RDLCK, extent))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close our descriptor; the pin ends when no copy of it is left. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Pin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
