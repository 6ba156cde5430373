# SPDX-License-Identifier: Apache-2.0
"""Where a worker listens and how an agent finds it: one unix socket in a directory of its own.

The kernel limits a socket's path to 107 bytes. Both sides therefore name it through an open directory
(`/proc/self/fd/N/worker.sock`), so the directory may lie as deep as it likes. Knows no messages.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = "worker.sock"
LOG_NAME: Final = "worker.log"
_PEER_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


@contextmanager
def _short_path(directory: Path) -> Iterator[str]:
    directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory_fd}/{SOCKET_NAME}"
    finally:
        os.close(directory_fd)


def listen_in(directory: Path) -> socket.socket:
    """A listening socket in `directory`, which no other user may enter. Raises OSError."""
    directory.chmod(0o700)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short_path(directory) as path:
            listener.bind(path)
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


def connect_in(directory: Path) -> socket.socket:
    """A connected, nonblocking socket to the worker of `directory`. Raises OSError.

    Does not wait: the kernel completes the connection while the worker still primes itself.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short_path(directory) as path:
            connection.connect(path)
    except OSError:
        connection.close()
        raise
    connection.setblocking(False)
    return connection


def peer_uid(connection: socket.socket) -> int:
    """The user that the process at the other end ran as when it connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    uid: int = _PEER_CREDENTIALS.unpack(raw)[1]
    return uid
