# SPDX-License-Identifier: Apache-2.0
"""Half-fetched files: resumed, trusted only as far as they may be, invisible until whole, honest about room."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from serverlessllm.errors import CapacityError, ConflictError
from serverlessllm.sources import partial_file
from serverlessllm.sources.file_sink import FileSink
from serverlessllm.sources.partial_file import PartialFile
from support.byte_sink import pieces_of

DATA = os.urandom(5 * 8192 + 100)
PIECES = pieces_of(DATA, 8192)


def write(file: PartialFile, *numbers: int) -> None:
    for number in numbers:
        piece = PIECES[number]
        file.write(piece, memoryview(bytearray(DATA[piece.offset : piece.offset + piece.nbytes])))


def test_file_appears_whole_and_alone(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "m", len(DATA), "v1") as file:
        write(file, 5, 3, 1, 0, 2, 4)
        assert not (tmp_path / "m").exists()
        file.finish()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"m": DATA}


def test_second_process_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "m", len(DATA), "v1") as file:
        write(file, 0, 2)
    with PartialFile(tmp_path / "m", len(DATA), "v1") as file:
        assert file.missing(PIECES) == [PIECES[n] for n in (1, 3, 4, 5)]
        write(file, 1, 3, 4, 5)
        file.finish()
    assert (tmp_path / "m").read_bytes() == DATA


@pytest.mark.parametrize(("size", "identity"), [(len(DATA), "v2"), (len(DATA) - 8192, "v1")])
def test_other_bytes_under_the_same_name_begin_anew(tmp_path: Path, size: int, identity: str) -> None:
    with PartialFile(tmp_path / "m", len(DATA), "v1") as file:
        write(file, 0, 1)
    with PartialFile(tmp_path / "m", size, identity) as file:
        assert file.done == set()


def test_torn_end_of_the_record_is_not_believed(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "m", len(DATA), "v1") as file:
        write(file, 0, 1)
    record = tmp_path / "m.part.done"
    record.write_bytes(record.read_bytes()[:-3])
    with PartialFile(tmp_path / "m", len(DATA), "v1") as file:
        assert file.missing(PIECES) == PIECES[1:]


def test_after_a_power_cut_only_pieces_that_match_their_digest_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PartialFile(tmp_path / "m", len(DATA), "v1") as file:
        write(file, 0, 1, 2)
    with (tmp_path / "m.part").open("r+b") as part:
        part.write(bytes(100))  # the first piece's pages never reached the disk
    other_boot = tmp_path / "boot_id"
    other_boot.write_text("another boot")
    monkeypatch.setattr(partial_file, "_BOOT_ID", other_boot)
    with PartialFile(tmp_path / "m", len(DATA), "v1", pieces=PIECES) as file:
        assert file.missing(PIECES) == [PIECES[n] for n in (0, 3, 4, 5)]


def test_second_process_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with (
        PartialFile(tmp_path / "m", len(DATA), "v1"),
        pytest.raises(ConflictError, match="another process"),
    ):
        PartialFile(tmp_path / "m", len(DATA), "v1")


def test_too_large_a_file_says_how_much_is_missing_and_leaves_nothing(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    size = free.f_bavail * free.f_frsize + (1 << 40)
    with pytest.raises(CapacityError, match=r"\d{12,} bytes are missing; free some"):
        PartialFile(tmp_path / "m", size, "v1")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_in_the_middle_is_an_error_and_the_rest_can_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with PartialFile(tmp_path / "m", len(DATA), "v1") as file:
        write(file, 0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", full)
            with pytest.raises(CapacityError, match="the disk is full"):
                write(file, 1)
    with PartialFile(tmp_path / "m", len(DATA), "v1") as file:
        assert file.missing(PIECES) == PIECES[1:]


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "m", len(DATA), "v1") as file:
        write(file, 0)
        file.discard()
    assert list(tmp_path.iterdir()) == []


def test_part_that_was_finished_while_we_waited_for_it_is_not_touched(tmp_path: Path) -> None:
    first = PartialFile(tmp_path / "m", len(DATA), "v1")
    stale = os.open(tmp_path / "m.part", os.O_RDWR)
    write(first, 0, 1, 2, 3, 4, 5)
    first.finish()
    with PartialFile(tmp_path / "m", len(DATA), "v2") as second:
        assert not os.path.samestat(os.fstat(stale), (tmp_path / "m.part").stat())
        write(second, 0)
    fcntl.flock(stale, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(stale)
    assert (tmp_path / "m").read_bytes() == DATA


def test_sink_uses_its_buffers_again(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "m", len(DATA), "v1") as file:
        told: list[int] = []
        sink = FileSink(file, 8192, on_piece=lambda piece: told.append(piece.offset))
        for piece in PIECES:
            view = sink.view(piece)
            view[:] = DATA[piece.offset : piece.offset + piece.nbytes]
            sink.accept(piece, view)
        file.finish()
    assert told == [piece.offset for piece in PIECES]
    assert (tmp_path / "m").read_bytes() == DATA
