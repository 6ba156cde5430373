# SPDX-License-Identifier: Apache-2.0
"""Pieces are handed out once each, first ones first, neighbours together where that pays."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.sources.base import Piece
from serverlessllm.sources.piece_queue import MAX_RUN_BYTES, PieceQueue, Turn

MIB = 1 << 20


def pieces(number: int, nbytes: int = 8 * MIB, gap_before: int | None = None) -> list[Piece]:
    """Neighbours, but for a gap before one of them."""
    return [
        Piece(at * nbytes + (nbytes if gap_before is not None and at >= gap_before else 0), nbytes)
        for at in range(number)
    ]


def turns(queue: PieceQueue, worker_id: int, *, in_runs: bool = True) -> list[Turn]:
    """What one worker gets that works alone."""
    return list(iter(lambda: queue.take(worker_id, in_runs=in_runs), None))


def test_lone_worker_gets_every_piece_in_order_in_growing_runs() -> None:
    found = turns(PieceQueue(pieces(100), 1), 1)
    assert [turn.piece for turn in found] == pieces(100)
    runs = [turn.run_bytes // (8 * MIB) for turn in found if turn.run_bytes]
    assert runs[:4] == [1, 2, 4, 4] and sum(runs) == 100
    assert max(runs) * 8 * MIB == MAX_RUN_BYTES


def test_first_pieces_go_one_to_each_worker() -> None:
    queue = PieceQueue(pieces(200), 8)
    first = [queue.take(worker_id, in_runs=True) for worker_id in range(8)]
    assert first == [Turn(piece, piece.nbytes) for piece in pieces(8)]


def test_no_runs_are_kept_where_origins_are_chosen_piece_by_piece() -> None:
    found = turns(PieceQueue(pieces(60), 1), 1, in_runs=False)
    assert [turn.run_bytes for turn in found] == [8 * MIB] * 60


def test_run_ends_before_a_gap() -> None:
    queue = PieceQueue(pieces(100, gap_before=5), 1)
    found = turns(queue, 1)
    starts = [turn.piece.offset for turn in found if turn.run_bytes]
    assert pieces(100, gap_before=5)[5].offset in starts


def test_idle_worker_takes_from_the_end_of_anothers_run() -> None:
    queue = PieceQueue(pieces(40), 1)
    for _ in range(4):
        queue.take(1, in_runs=True)  # runs of 1, 2, and the first of 4
    rest = turns(queue, 2)
    assert {turn.piece.offset for turn in rest[-3:]} == {piece.offset for piece in pieces(40)[4:7]}
    assert queue.take(1, in_runs=True) is None


@given(
    number=st.integers(0, 80),
    num_workers=st.integers(1, 6),
    takes=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=120),
)
def test_every_piece_is_taken_once_whoever_asks(
    number: int, num_workers: int, takes: list[tuple[int, bool]]
) -> None:
    queue = PieceQueue(pieces(number, 1), num_workers)
    found = [queue.take(worker_id, in_runs=in_runs) for worker_id, in_runs in takes]
    offsets = [turn.piece.offset for turn in [*found, *turns(queue, 9)] if turn is not None]
    assert sorted(offsets) == list(range(number))
    assert all(before != after for before, after in pairwise(sorted(offsets)))
