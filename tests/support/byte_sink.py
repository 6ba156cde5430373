# SPDX-License-Identifier: Apache-2.0
"""A download's sink into one buffer, and the pieces of some bytes."""

from __future__ import annotations

import threading

from blake3 import blake3

from serverlessllm.sources.base import Piece


def pieces_of(data: bytes, piece_bytes: int, *, digests: bool = True) -> list[Piece]:
    """`data` cut into pieces, with their digests."""
    return [
        Piece(at, len(cut := data[at : at + piece_bytes]), blake3(cut).hexdigest() if digests else None)
        for at in range(0, len(data), piece_bytes)
    ]


class ByteSink:
    """Keeps what is accepted; `accepted` lists the pieces as they came."""

    def __init__(self, nbytes: int) -> None:
        self.buffer = bytearray(nbytes)
        self.accepted: list[Piece] = []
        self._lock = threading.Lock()

    def view(self, piece: Piece) -> memoryview:
        return memoryview(self.buffer)[piece.offset : piece.offset + piece.nbytes]

    def accept(self, piece: Piece, view: memoryview) -> None:
        with self._lock:
            self.accepted.append(piece)
