# SPDX-License-Identifier: Apache-2.0
"""The worker's end of its one connection: blocking sends, timed receives, descriptors that come along.

Knows frames, not what they ask for. A slow agent fills the socket's buffer and then blocks the worker, so
that nothing is computed that nobody reads; an agent that is gone raises `AgentGoneError`.
"""

from __future__ import annotations

import array
import os
import select
import socket
from collections import deque
from typing import Final

from serverlessllm.engine.worker_socket import peer_uid
from serverlessllm.wire.worker import (
    Attach,
    FrameSplitter,
    FromWorker,
    ToWorker,
    decode_to_worker,
    encode_frame,
)

_READ_BYTES: Final = 256 << 10
_MAX_DESCRIPTORS: Final = 4


class AgentGoneError(Exception):
    """The agent closed the connection: the worker's work is over."""


class AgentConnection:
    """One authenticated agent. `accept` waits for it; everyone of another user is hung up on."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._splitter = FrameSplitter()
        self._descriptors: deque[int] = deque()

    @classmethod
    def accept(cls, listener: socket.socket) -> AgentConnection:
        """Wait for the first peer that runs as our own user."""
        while True:
            connection, _ = listener.accept()
            if peer_uid(connection) == os.geteuid():
                return cls(connection)
            connection.close()

    def send(self, message: FromWorker) -> None:
        """Send one frame, waiting while the agent does not read. Raises AgentGoneError."""
        try:
            self._socket.sendall(encode_frame(message))
        except ConnectionError as error:
            raise AgentGoneError from error

    def receive(
        self, timeout_s: float | None, wake_fd: int | None = None
    ) -> list[tuple[ToWorker, int | None]]:
        """Complete messages, each `Attach` with the descriptor that came with its first byte.

        Waits at most `timeout_s` for bytes (None: until some come, or `wake_fd` is readable) and returns [] when no
        message is whole.
        Raises: AgentGoneError at the end of the stream, WireError for anything but known frames.
        """
        if timeout_s is not None or wake_fd is not None:
            ours = self._socket.fileno()
            watched = [ours] if wake_fd is None else [ours, wake_fd]
            if ours not in select.select(watched, [], [], timeout_s)[0]:
                return []
        messages = [decode_to_worker(body) for body in self._splitter.feed(self._read())]
        return [(message, self._descriptor_of(message)) for message in messages]

    def close(self) -> None:
        """Hang up; descriptors that nobody claimed are closed."""
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _read(self) -> bytes:
        room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError as error:
            raise AgentGoneError from error
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                self._descriptors.extend(received)
        if not data:
            raise AgentGoneError
        return data

    def _descriptor_of(self, message: ToWorker) -> int | None:
        if isinstance(message, Attach) and self._descriptors:
            return self._descriptors.popleft()
        return None
