# SPDX-License-Identifier: Apache-2.0
"""Which piece a worker fetches next: in order, and where it pays several neighbours in a row over one request.

A request costs its server a look-up and its client a round trip, whatever its size: S3 servers give a tenth more
when ranges are four times larger. Runs begin with one piece, so that the first ones, which somebody may wait for,
come first; they grow, and shrink again towards the end, so that all workers end together. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from serverlessllm.sources.base import Piece

MAX_RUN_BYTES: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Turn:
    """A worker's next piece. `run_bytes`: what it will read from the piece's start on, without a gap, before it
    goes elsewhere; 0 where an earlier turn said so for this piece too."""

    piece: Piece
    run_bytes: int


class PieceQueue:
    """The pieces that nobody is after yet. Its owner's lock guards it."""

    def __init__(self, pieces: Sequence[Piece], num_workers: int) -> None:
        self._pieces = pieces
        self._num_workers = num_workers
        self._next = 0
        self._runs: dict[int, range] = {}

    def take(self, worker_id: int, *, in_runs: bool) -> Turn | None:
        """The worker's next piece; None when all are taken. Without `in_runs` it keeps none for later.

        When nothing else is left, a worker helps the one that has most before it.
        """
        kept = self._runs.get(worker_id, range(0))
        if kept:
            self._runs[worker_id] = kept[1:]
            return Turn(self._pieces[kept[0]], 0)
        if self._next < len(self._pieces):
            run = range(self._next, self._next + self._run_length(in_runs))
            self._next = run.stop
            self._runs[worker_id] = run[1:]
            return Turn(self._pieces[run[0]], sum(self._pieces[number].nbytes for number in run))
        fullest = max(self._runs, key=lambda one: len(self._runs[one]), default=None)
        if fullest is None or not self._runs[fullest]:
            return None
        run = self._runs[fullest]
        self._runs[fullest] = run[:-1]
        piece = self._pieces[run[-1]]
        return Turn(piece, piece.nbytes)

    def _run_length(self, in_runs: bool) -> int:
        """How many pieces from the next one on make a run."""
        if not in_runs:
            return 1
        left = len(self._pieces) - self._next
        most = max(1, min(1 + self._next // self._num_workers, left // (2 * self._num_workers)))
        nbytes = self._pieces[self._next].nbytes
        for number in range(self._next + 1, self._next + most):
            before, piece = self._pieces[number - 1], self._pieces[number]
            nbytes += piece.nbytes
            if before.offset + before.nbytes != piece.offset or nbytes > MAX_RUN_BYTES:
                return number - self._next
        return most
