# SPDX-License-Identifier: Apache-2.0
"""Archives of strangers: nothing leaves the directory, nothing grows beyond its bound, every refusal says why."""

from __future__ import annotations

import gzip
import io
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from serverlessllm.errors import CheckpointFormatError, SllmError
from serverlessllm.sources.archive import ArchiveLimits, unpack

LIMITS = ArchiveLimits(max_bytes=1 << 20, max_entries=50)
BAD_NAMES = ["../evil", "/etc/evil", "a/../../evil", "a//b", "a\\..\\evil", "x\x01y", "n" * 300]


def tar(path: Path, *members: tarfile.TarInfo, data: bytes = b"data") -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def refused(archive: Path, tmp_path: Path) -> str:
    """Unpack, expect a refusal, and nothing outside; the reason."""
    before = set(tmp_path.iterdir()) | {tmp_path / "out"}
    with pytest.raises(CheckpointFormatError) as caught:
        unpack(archive, tmp_path / "out", LIMITS)
    assert set(tmp_path.iterdir()) <= before
    return caught.value.message


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".zip"])
def test_honest_archive_is_unpacked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("model")
            archive.writestr("model/config.json", b"data")
            archive.writestr("model/sub/weights.bin", b"data")
    else:
        folder = member("./model", tarfile.DIRTYPE)
        tar(path, folder, member("./model/config.json"), member("model/sub/weights.bin"))
    root = unpack(path, tmp_path / "out", LIMITS)
    assert root == tmp_path / "out" / "model"
    assert (root / "config.json").read_bytes() == (root / "sub" / "weights.bin").read_bytes() == b"data"


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_name_that_leaves_the_directory_is_refused(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            archive.writestr(info, b"data")
    else:
        tar(path, member(name))
    assert "refusing" in refused(path, tmp_path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tar(tmp_path / "model.tar", member("link", kind, "/etc/passwd"))
    assert "a link, a device" in refused(path, tmp_path)


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert "link or a device" in refused(tmp_path / "model.zip", tmp_path)


def test_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    assert "comes twice" in refused(tar(tmp_path / "m.tar", member("a"), member("a")), tmp_path)
    assert "comes twice" in refused(tar(tmp_path / "n.tar", member("b"), member("b/c")), tmp_path)


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(64 << 20))
    else:
        tar(path, member("zeros"), data=bytes(64 << 20))
    assert path.stat().st_size < 1 << 20
    assert "more than 1048576 bytes" in refused(path, tmp_path)
    assert sum(one.stat().st_size for one in (tmp_path / "out").rglob("*")) <= 1 << 20


def test_zip_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "liar.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(8 << 20))
    path.write_bytes(path.read_bytes().replace((8 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused(path, tmp_path)


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "many.tar", *(member(f"d{n}", tarfile.DIRTYPE) for n in range(60)))
    assert "more than 50 entries" in refused(path, tmp_path)


def test_extended_header_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with gzip.open(tmp_path / "pax.tar.gz", "wb", compresslevel=1) as file:
        file.write(header.tobuf())
        file.write(bytes(4 << 20))
    assert "broken" in refused(tmp_path / "pax.tar.gz", tmp_path)


def test_contents_of_a_gigabyte_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "contents.zip"
    contents_bytes = 1 << 30
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, contents_bytes, 0, 0)
    with path.open("wb") as file:
        file.truncate(contents_bytes)  # a hole: nothing of it is on disk
        file.seek(contents_bytes)
        file.write(end)
    tracemalloc.start()
    try:
        assert "broken: a header of more than" in refused(path, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"data")
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "broken" in refused(path, tmp_path)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_damaged_archive_is_refused_or_gives_files_below(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/b", b"data" * 100)
    else:
        tar(whole, member("a/b"), data=b"data" * 100)
    seed = 7
    pick = random.Random(seed)
    for number in range(150):
        data = bytearray(whole.read_bytes())
        for _ in range(pick.randint(1, 8)):
            data[pick.randrange(len(data))] = pick.randrange(256)
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(data[: pick.randint(1, len(data))])
        out = tmp_path / f"out{number}"
        try:
            unpack(path, out, LIMITS)
        except SllmError:
            continue
        finally:
            assert not (tmp_path / "evil").exists(), seed
