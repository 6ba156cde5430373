# SPDX-License-Identifier: Apache-2.0
"""The agent's end of a worker's connection on the event loop: frames out, messages in.

Knows frames, not what they mean. A raw socket with readiness callbacks rather than a stream: the first frame
carries a descriptor, and a read that ends in EOF must deliver every id that came before it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from serverlessllm.errors import PayloadTooLargeError, WireError
from serverlessllm.wire.worker import (
    MAX_FRAME_BYTES,
    FrameSplitter,
    FromWorker,
    ToWorker,
    decode_from_worker,
    encode_frame,
)

_READ_BYTES: Final = 256 << 10


class FrameChannel:
    """One connection. Calls `on_message` per message, then `on_closed(reason)` exactly once."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        on_message: Callable[[FromWorker], None],
        on_closed: Callable[[str], None],
    ) -> None:
        """Take ownership of the nonblocking `connection` and read it on the running loop."""
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_closed = on_closed
        self._splitter = FrameSplitter()
        self._unsent = bytearray()
        self._is_closed = False
        self._loop.add_reader(connection, self._read)

    @property
    def has_ended(self) -> bool:
        """Whether the worker hung up, even if the event loop has not come round to notice. One system call."""
        if self._is_closed:
            return True
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def send(self, message: ToWorker, *, descriptor: int | None = None) -> None:
        """Send one frame, keeping in memory what the socket does not take yet; never blocks.

        `descriptor` travels with the first byte, so nothing may be waiting to be sent before it.
        Raises: PayloadTooLargeError for a frame that the worker would refuse.
        """
        if self._is_closed:
            return  # `on_closed` was called: the owner knows
        frame = encode_frame(message)
        if len(frame) > MAX_FRAME_BYTES:
            raise PayloadTooLargeError(f"a request of {len(frame)} bytes exceeds {MAX_FRAME_BYTES}")
        if descriptor is not None:
            frame = frame[self._send_with(descriptor, frame) :]
        was_idle = not self._unsent
        self._unsent += frame
        if was_idle:
            self._write()

    def close(self, reason: str = "closed by the agent") -> None:
        """Hang up and call `on_closed`. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._on_closed(reason)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                self.close("the connection ended")
                return
            for body in self._splitter.feed(data):
                if not self._is_closed:
                    self._on_message(decode_from_worker(body))
        except BlockingIOError:
            pass
        except (ConnectionError, WireError) as error:
            self.close(str(error))

    def _send_with(self, descriptor: int, frame: bytes) -> int:
        try:
            return socket.send_fds(self._socket, [frame], [descriptor])
        except ConnectionError:
            return len(frame)  # as in `_write`

    def _write(self) -> None:
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except ConnectionError:
            # The reader delivers what the worker still said, then meets the end of the stream and closes.
            self._unsent.clear()
        if self._unsent:
            self._loop.add_writer(self._socket, self._write)
        else:
            self._loop.remove_writer(self._socket)
