# SPDX-License-Identifier: Apache-2.0
"""Fan-out over origins in memory: all bytes, blame, quarantine, errors that name who failed."""

from __future__ import annotations

import os
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serverlessllm.errors import (
    CapacityError,
    CorruptDataError,
    ModelLoadError,
    SllmError,
    UnreachableError,
)
from serverlessllm.sources.base import Piece
from serverlessllm.sources.download import Download, DownloadReport
from support.byte_origin import ByteOrigin
from support.byte_sink import ByteSink, pieces_of

PIECE = 1000
DATA = os.urandom(20 * PIECE + 7)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def run(*origins: ByteOrigin, num_workers: int = 4) -> tuple[ByteSink, DownloadReport]:
    sink = ByteSink(len(DATA))
    download = Download(
        pieces_of(DATA, PIECE), origins, sink, num_workers=num_workers, jitter=random.Random(1)
    )
    return sink, download.run()


def test_every_piece_is_accepted_once_and_the_bytes_are_equal() -> None:
    one = ByteOrigin(DATA)
    sink, report = run(one)
    assert bytes(sink.buffer) == DATA
    assert len(sink.accepted) == len(set(sink.accepted)) == 21 == len(one.reads)
    assert (report.nbytes, report.is_complete, report.origins[0].num_pieces) == (len(DATA), True, 21)


def test_pieces_are_asked_for_in_order() -> None:
    one = ByteOrigin(DATA)
    run(one, num_workers=1)
    assert [offset for offset, _ in one.reads] == list(range(0, len(DATA), PIECE))


def test_bad_piece_is_blamed_on_its_origin_and_fetched_from_another() -> None:
    bad, good = ByteOrigin(flipped(DATA, 5500), name="bad"), ByteOrigin(DATA, name="good")
    sink, report = run(bad, good)
    assert bytes(sink.buffer) == DATA
    blamed, trusted = report.origins
    assert blamed.closed is None or "bytes 5000-5999 have digest" in blamed.closed
    assert trusted.closed is None


def test_origin_that_only_lies_is_asked_no_more_than_once_per_worker() -> None:
    liar, good = ByteOrigin(bytes(len(DATA)), name="liar"), ByteOrigin(DATA, name="good")
    sink, report = run(liar, good)
    assert bytes(sink.buffer) == DATA and len(liar.reads) <= 4
    assert report.origins[0].num_corrupt == len(liar.reads)


def test_no_more_pieces_are_under_way_than_the_width_allows() -> None:
    under_way = [0]
    most = [0]
    lock = threading.Lock()

    class Counted(ByteOrigin):
        def read_into(self, offset: int, view: memoryview) -> int:
            with lock:
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            count = super().read_into(offset, view)
            with lock:
                under_way[0] -= 1
            return count

    sink = ByteSink(len(DATA))
    Download(pieces_of(DATA, PIECE), [Counted(DATA)], sink, num_workers=8, width=lambda: 2).run()
    assert bytes(sink.buffer) == DATA
    assert most[0] <= 2


def test_last_origin_is_forgiven_one_bad_piece() -> None:
    one = ByteOrigin(flipped(DATA, 5500), name="one")
    one.trouble = lambda number: setattr(one, "data", DATA) if number == 6 else None
    sink, report = run(one, num_workers=1)
    assert bytes(sink.buffer) == DATA
    assert (report.origins[0].num_corrupt, report.origins[0].closed) == (1, None)


def test_last_origin_that_lies_again_is_given_up() -> None:
    liar = ByteOrigin(flipped(DATA, 5500), name="liar")
    with pytest.raises(CorruptDataError, match="liar: bytes 5000-5999 have digest"):
        run(liar, num_workers=1)
    assert liar.reads.count((5000, PIECE)) == 2


def test_all_origins_bad_names_each_with_what_it_sent() -> None:
    with pytest.raises(
        CorruptDataError, match=r"first: bytes .* have digest .*; second: bytes .* have digest"
    ):
        run(ByteOrigin(bytes(len(DATA)), name="first"), ByteOrigin(bytes(len(DATA)), name="second"))


def test_truncated_origin_is_left_for_another() -> None:
    short, good = ByteOrigin(DATA[: 10 * PIECE], name="short"), ByteOrigin(DATA, name="good")
    sink, report = run(short, good)
    assert bytes(sink.buffer) == DATA and report.is_complete


def test_passing_failures_are_waited_out() -> None:
    shaky = ByteOrigin(DATA, trouble=lambda number: UnreachableError("reset") if number % 5 == 2 else None)
    sink, report = run(shaky)
    assert bytes(sink.buffer) == DATA
    assert report.origins[0].num_failures == len(shaky.reads) - 21


@pytest.mark.parametrize("error", [ModelLoadError("no ranges"), CorruptDataError("does not exist")])
def test_lasting_failure_is_not_tried_again(error: SllmError) -> None:
    broken = ByteOrigin(DATA, name="broken", trouble=lambda number: error)
    with pytest.raises(ModelLoadError, match=f"broken: {error.message}"):
        run(broken, num_workers=1)
    assert len(broken.reads) == 1


def test_sinks_failure_ends_the_download() -> None:
    class FullSink(ByteSink):
        def accept(self, piece: Piece, view: memoryview) -> None:
            raise CapacityError("the disk is full")

    one = ByteOrigin(DATA)
    with pytest.raises(CapacityError, match="disk is full"):
        Download(pieces_of(DATA, PIECE), [one], FullSink(len(DATA)), num_workers=2).run()
    assert len(one.reads) <= 2


def test_stopped_download_returns_what_it_has() -> None:
    sink = ByteSink(len(DATA))
    download: Download

    def stop_at_five(number: int) -> SllmError | None:
        if number == 5:
            download.stop()
        return None

    one = ByteOrigin(DATA, trouble=stop_at_five)
    download = Download(pieces_of(DATA, PIECE), [one], sink, num_workers=1)
    report = download.run()
    assert not report.is_complete
    assert report.nbytes == sum(piece.nbytes for piece in sink.accepted) <= 6 * PIECE


def test_no_pieces_are_no_work() -> None:
    assert Download([], [ByteOrigin(b"")], ByteSink(0)).run().is_complete


def test_several_origins_without_digests_are_refused() -> None:
    with pytest.raises(ValueError, match="digest"):
        Download(pieces_of(DATA, PIECE, digests=False), [ByteOrigin(DATA), ByteOrigin(DATA)], ByteSink(0))


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(0, 5000),
    piece_bytes=st.integers(1, 700),
    bad=st.lists(st.booleans(), min_size=1, max_size=4),
    workers=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_result_is_right_or_an_error_whatever_the_origins_do(
    size: int, piece_bytes: int, bad: list[bool], workers: int, seed: int
) -> None:
    data = random.Random(seed).randbytes(size)
    origins = [ByteOrigin(data if not is_bad else bytes(b ^ 255 for b in data)) for is_bad in bad]
    sink = ByteSink(size)
    download = Download(pieces_of(data, piece_bytes), origins, sink, num_workers=workers)
    if all(bad) and size:
        with pytest.raises(CorruptDataError):
            download.run()
    else:
        assert download.run().is_complete and bytes(sink.buffer) == data
