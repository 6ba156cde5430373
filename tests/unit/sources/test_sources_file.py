# SPDX-License-Identifier: Apache-2.0
"""Local files: every byte, also at odd places and ends, and errors that name the file."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest

from serverlessllm.errors import ConfigError, CorruptDataError, ModelLoadError
from serverlessllm.sources.file import FileSource

SIZE = 3 * 4096 + 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "model.bin"
    written.write_bytes(os.urandom(SIZE))
    return written


def page_aligned(nbytes: int) -> memoryview:
    return memoryview(mmap.mmap(-1, nbytes))


@pytest.mark.parametrize("direct_io", ["auto", "never"])
@pytest.mark.parametrize(
    ("offset", "nbytes"), [(0, 8192), (4096, 4096), (8192, 8192), (12288, 4096), (7, 50), (4096, 33)]
)
def test_read_gives_the_bytes_and_stops_at_the_end(
    path: Path, direct_io: str, offset: int, nbytes: int
) -> None:
    target = page_aligned(nbytes)
    with FileSource(path, direct_io=direct_io) as source:
        count = source.read_into(offset, target)
    expected = path.read_bytes()[offset : offset + nbytes]
    assert (count, bytes(target[:count])) == (len(expected), expected)


def test_target_at_an_odd_address_is_filled_too(path: Path) -> None:
    target = page_aligned(12288)[3 : 3 + 8192]
    with FileSource(path) as source:
        assert source.read_into(0, target) == 8192
    assert bytes(target) == path.read_bytes()[:8192]


def test_read_past_the_end_gives_nothing(path: Path) -> None:
    with FileSource(path) as source:
        assert source.read_into(1 << 20, page_aligned(4096)) == 0


def test_identity_changes_with_the_content(path: Path) -> None:
    with FileSource(path) as source:
        before = source.identity
        assert (source.size, source.identity) == (SIZE, before)
        path.write_bytes(b"other")
        os.utime(path, ns=(1, 1))
        assert source.identity != before


def test_missing_file_is_corrupt_data_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match=r"gone\.bin is missing"):
        FileSource(tmp_path / "gone.bin")


def test_unreadable_file_is_a_load_error_that_names_it(tmp_path: Path) -> None:
    loop = tmp_path / "loop.bin"
    loop.symlink_to(loop)
    with pytest.raises(ModelLoadError, match=r"cannot open .*loop\.bin"):
        FileSource(loop)


def test_read_error_names_file_and_offset(tmp_path: Path) -> None:
    with (
        FileSource(tmp_path) as source,
        pytest.raises(ModelLoadError, match=os.strerror(errno.EISDIR)) as failure,
    ):
        source.read_into(4096, page_aligned(4096))
    assert f"at offset 4096 of {tmp_path}" in failure.value.message


def test_file_system_without_direct_io_falls_back_unless_it_is_demanded() -> None:
    source = FileSource(Path("/proc/self/status"))
    assert not source.is_direct
    target = bytearray(4096)
    assert source.read_into(0, memoryview(target)) > 0
    source.close()
    with pytest.raises(ConfigError, match="refuses O_DIRECT") as failure:
        FileSource(Path("/proc/self/status"), direct_io="always")
    assert failure.value.param == "loader.direct_io"


def test_close_twice_leaves_no_descriptor(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = FileSource(path)
    source.close()
    source.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
