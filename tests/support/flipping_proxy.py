# SPDX-License-Identifier: Apache-2.0
"""A bad wire: passes a server's bytes on, and flips one bit of a large answer each time it is told to."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Final, Self

BLOCK_BYTES: Final = 64 << 10
BODY_BYTES: Final = 16 << 10
"""A block of this size or more is taken to be inside an answer's body."""


class FlippingProxy:
    """In front of `port` on this machine. Set `flips_left` to have as many bits flipped, one per large block."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.flips_left = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._open |= {client, server}
                for source, sink, is_answer in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass, args=(source, sink, is_answer), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while block := bytearray(source.recv(BLOCK_BYTES)):
                if is_answer and len(block) >= BODY_BYTES:
                    self._flip(block)
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)

    def _flip(self, block: bytearray) -> None:
        with self._lock:
            if self.flips_left > 0:
                self.flips_left -= 1
                block[-1] ^= 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for one in self._open:
            one.close()
