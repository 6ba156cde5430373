# SPDX-License-Identifier: Apache-2.0
"""Receives a download into a partial file through a few page-aligned buffers.

Memory: one buffer of `buffer_bytes` per piece under way, kept and used again; never more than the download has
workers. Knows no origin.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable

from serverlessllm.sources.base import Piece
from serverlessllm.sources.partial_file import PartialFile

OnPiece = Callable[[Piece], None]


class FileSink:
    """Sink of one file."""

    def __init__(self, file: PartialFile, buffer_bytes: int, *, on_piece: OnPiece | None = None) -> None:
        """`buffer_bytes`: the largest piece. `on_piece` is called from the workers, after each is on disk."""
        self._file = file
        self._buffer_bytes = max(1, buffer_bytes)
        self._on_piece = on_piece
        self._lock = threading.Lock()
        self._free: list[mmap.mmap] = []
        self._lent: dict[Piece, mmap.mmap] = {}

    def view(self, piece: Piece) -> memoryview:
        """A buffer, cut to the piece. Raises: ValueError for a piece larger than the buffers."""
        if piece.nbytes > self._buffer_bytes:
            raise ValueError(f"a piece of {piece.nbytes} bytes in buffers of {self._buffer_bytes}")
        with self._lock:
            # Anonymous mappings begin on a page, as O_DIRECT wants; bytearrays do not.
            buffer = self._free.pop() if self._free else mmap.mmap(-1, self._buffer_bytes)
            self._lent[piece] = buffer
        return memoryview(buffer)[: piece.nbytes]

    def accept(self, piece: Piece, view: memoryview) -> None:
        """Write the piece; its buffer serves the next one. Raises: as `PartialFile.write`."""
        self._file.write(piece, view)
        view.release()
        with self._lock:
            self._free.append(self._lent.pop(piece))
        if self._on_piece is not None:
            self._on_piece(piece)
