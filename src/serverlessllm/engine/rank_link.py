# SPDX-License-Identifier: Apache-2.0
"""Rank 0's line to another rank of its group, in frames of wire/worker.py. Knows no engine.

A socketpair that the zygote made before it forked both ends. The other end reads it as a worker reads its agent
(worker_connection.py).
"""

from __future__ import annotations

import socket

from serverlessllm.errors import EngineError, WireError, error_classes
from serverlessllm.wire.worker import (
    Attach,
    Attached,
    Failed,
    FrameSplitter,
    ToWorker,
    decode_from_worker,
    encode_frame,
)

_READ_BYTES = 64 << 10


class RankLink:
    """One of rank 0's lines. A rank that is gone raises ConnectionError: a crash, as nothing can go on."""

    def __init__(self, connection: socket.socket, rank: int) -> None:
        self._socket = connection
        self._rank = rank

    def send(self, message: ToWorker) -> None:
        """Send one frame, waiting while the rank does not read."""
        self._socket.sendall(encode_frame(message))

    def attach(self, attach: Attach, region_fd: int) -> None:
        """Send the attach with a copy of the region's descriptor, by which the rank pins it too."""
        frame = encode_frame(attach)
        num_sent = socket.send_fds(self._socket, [frame], [region_fd])
        self._socket.sendall(frame[num_sent:])

    def attached(self) -> Attached:
        """The rank's answer to `attach`, waited for. Raises: the rank's own error."""
        splitter = FrameSplitter()
        while True:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise ConnectionError(f"rank {self._rank} is gone")
            for body in splitter.feed(data):
                return self._answer(body)

    def _answer(self, body: bytes) -> Attached:
        match decode_from_worker(body):
            case Attached() as attached:
                return attached
            case Failed() as failed:
                cls = error_classes().get(failed.code, EngineError)
                raise cls(f"rank {self._rank}: {failed.message}", param=failed.param, source="engine")
            case message:
                raise WireError(f"{type(message).__name__} from rank {self._rank}", source="engine")
