# SPDX-License-Identifier: Apache-2.0
"""A plain TCP socket whose large reads come back full: the kernel waits for all the bytes of a body, not Python.

Ordinary reads return whatever has arrived, some 100 KB of an 8 MiB range, and each costs a `poll`, a `recv` and a
turn at the interpreter's lock: together a tenth of a download's CPU (benchmarks/fetch). Knows no HTTP; TLS sockets
read in records of 16 KB and would gain nothing.
"""

from __future__ import annotations

import io
import socket
import struct
from typing import Any, Final

LARGE_BYTES: Final = 64 << 10
"""From here on a read waits until it is full. Headers are read through a buffer that is smaller."""

FIRST_WINDOW_BYTES: Final = 2 << 20
"""How much a server may send ahead of what we have read, from the first answer on."""


class BodySocket(socket.socket):
    """Takes over `plain`, which is of no further use. A read on which no byte comes for the timeout fails.

    A large read in which some bytes came, and then none for so long, returns them; the next one fails.
    """

    def __init__(self, plain: socket.socket, stall_timeout_s: float) -> None:
        super().__init__(plain.family, plain.type, plain.proto, fileno=plain.detach())
        # Blocking, with the kernel's own timeout: with Python's the socket does not block, and MSG_WAITALL not wait.
        self.settimeout(None)
        whole_s = int(stall_timeout_s)
        limit = struct.pack("ll", whole_s, int((stall_timeout_s - whole_s) * 1e6))
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        # A low-water mark makes the kernel open its window so far at once, and leaves it open, where it would begin
        # at 64 KB and grow by what is read. SO_RCVBUF would fix the size and end the growth.
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, FIRST_WINDOW_BYTES)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def makefile(self, mode: str = "r", buffering: int | None = None, **_: Any) -> Any:
        """A buffered reader of the bytes: all that `http.client` asks for."""
        return io.BufferedReader(_Reads(self, super().makefile("rb", buffering=0)))


class _Reads(io.RawIOBase):
    """`owner` counts as open as long as this is."""

    def __init__(self, sock: socket.socket, owner: io.RawIOBase) -> None:
        self._sock = sock
        self._owner = owner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        is_large = memoryview(buffer).nbytes >= LARGE_BYTES
        try:
            return self._sock.recv_into(buffer, 0, socket.MSG_WAITALL if is_large else 0)
        except BlockingIOError:
            raise TimeoutError("timed out") from None

    def close(self) -> None:
        self._owner.close()
        super().close()
