# SPDX-License-Identifier: Apache-2.0
"""The `.bin` files: tensors appended in the arrangement's order, padded with zeros, hashed chunk by chunk.

Keeps one chunk's hash state in memory, never a tensor. Knows no index and no directory life-cycle.
"""

from __future__ import annotations

import os
from pathlib import Path

from blake3 import blake3

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.arrange import Arrangement, PlannedShard
from serverlessllm.checkpoint.records import Encoding, Shard
from serverlessllm.errors import CheckpointFormatError

Buffer = bytes | bytearray | memoryview


class WeightsWriter:
    """Give it every tensor once, in order, whole or in parts, then `finish`; `close` in any case."""

    def __init__(self, directory: Path, arrangement: Arrangement) -> None:
        self._directory = directory
        self._arrangement = arrangement
        self._next_tensor = 0
        self._written_bytes = 0  # of the tensor that is due
        self._shards: list[Shard] = []
        self._shard: PlannedShard | None = None
        self._shard_end = 0
        self._digests: list[str] = []
        self._hasher = blake3()
        self._fd = -1
        self._file_name = ""
        self._file_end = 0

    def write(self, name: str, data: Buffer) -> None:
        """Append the next tensor, or the next part of it.

        Raises: CheckpointFormatError if it is not the one that is due, or longer than what it lacks.
        """
        view = memoryview(data).cast("B")
        due = self._due()
        if due is None or due[0] != name or len(view) > due[1]:
            raise CheckpointFormatError(f"expected tensor (name, bytes) {due}, got {(name, len(view))}")
        if self._written_bytes == 0:
            self._start_tensor()
        self._append(view)
        self._written_bytes += len(view)
        if self._written_bytes == self._arrangement.tensors[self._next_tensor].nbytes:
            self._next_tensor, self._written_bytes = self._next_tensor + 1, 0

    def finish(self) -> tuple[Shard, ...]:
        """Make the files durable; returns the shards with their digests. Raises if tensors are missing."""
        if due := self._due():
            raise CheckpointFormatError(f"tensor {due[0]!r} was not written", param=due[0])
        self._finish_shard()
        self._finish_file()
        return tuple(self._shards)

    def close(self) -> None:
        """Close what is open. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _due(self) -> tuple[str, int] | None:
        """The tensor whose bytes come next, and how many it lacks."""
        if self._next_tensor == len(self._arrangement.tensors):
            return None
        entry = self._arrangement.tensors[self._next_tensor]
        return entry.name, entry.nbytes - self._written_bytes

    def _start_tensor(self) -> None:
        """Start its shard if it is the first there, and pad up to its place."""
        entry = self._arrangement.tensors[self._next_tensor]
        if self._shard is None or self._shard.id != entry.shard:
            self._start_shard(self._arrangement.shards[len(self._shards) + (self._shard is not None)])
        self._append(memoryview(bytes(entry.offset - self._shard_end)))

    def _start_shard(self, shard: PlannedShard) -> None:
        self._finish_shard()
        if shard.file != self._file_name:
            self._start_file(shard.file)
        self._write_all(memoryview(bytes(shard.offset - self._file_end)))
        self._shard, self._shard_end, self._digests, self._hasher = shard, 0, [], blake3()

    def _finish_shard(self) -> None:
        if self._shard is None:
            return
        if self._shard_end % spec.CHUNK_BYTES:
            self._digests.append(self._hasher.hexdigest())
        shard = self._shard
        encoding = Encoding("raw", shard.file, shard.offset, shard.nbytes, tuple(self._digests))
        self._shards.append(Shard(shard.id, shard.kind, (encoding,)))
        self._shard = None

    def _start_file(self, name: str) -> None:
        self._finish_file()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(self._directory / name, flags, 0o644)
        self._file_name, self._file_end = name, 0
        size = max(s.offset + s.nbytes for s in self._arrangement.shards if s.file == name)
        os.posix_fallocate(self._fd, 0, size)  # a full disk shows now, not after minutes of writing

    def _finish_file(self) -> None:
        if self._fd >= 0:
            os.fsync(self._fd)
        self.close()

    def _append(self, view: memoryview) -> None:
        """Write bytes of the shard, closing a digest at every chunk border."""
        while view:
            room = spec.CHUNK_BYTES - self._shard_end % spec.CHUNK_BYTES
            piece, view = view[:room], view[room:]
            self._hasher.update(piece)
            self._write_all(piece)
            self._shard_end += len(piece)
            if self._shard_end % spec.CHUNK_BYTES == 0:
                self._digests.append(self._hasher.hexdigest())
                self._hasher = blake3()

    def _write_all(self, view: memoryview) -> None:
        self._file_end += len(view)
        while view:
            view = view[os.write(self._fd, view) :]
