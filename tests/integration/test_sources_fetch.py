# SPDX-License-Identifier: Apache-2.0
"""Whole locations over http(s): listings, artifacts, archives, servers without ranges; stopped and gone on with."""

from __future__ import annotations

import functools
import http.server
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serverlessllm.errors import (
    CapacityError,
    CheckpointFormatError,
    CorruptDataError,
    InvalidRequestError,
    PayloadTooLargeError,
    PermissionDeniedError,
    ShuttingDownError,
)
from serverlessllm.sources.access import Access
from serverlessllm.sources.fetch import Fetch, FetchReport
from serverlessllm.sources.http_connection import HttpAccess
from serverlessllm.sources.location import Location, list_files
from serverlessllm.sources.url_policy import UrlPolicy
from support.ranged_server import FaultKind, RangedServer, RangeRequest
from support.simulated_artifact import write_simulated_artifact

DATA = os.urandom(40 << 20)
ACCESS = Access(HttpAccess(UrlPolicy(allow_private=True), stall_timeout_s=20), num_workers=2)


def fetch(url: str, directory: Path, max_bytes: int = 1 << 30) -> FetchReport:
    return Fetch(Location.parse(url), directory, ACCESS, max_bytes=max_bytes).run()


@contextmanager
def plain_server(directory: Path) -> Iterator[str]:
    """Python's own file server: it lists directories and knows no ranges."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_files_of_a_listing_are_fetched_also_without_ranges(tmp_path: Path) -> None:
    served = tmp_path / "served" / "my model"
    (served / "folder").mkdir(parents=True)
    for name in ("config.json", "a b.bin", "100%.txt"):
        (served / name).write_bytes(name.encode() * 1000)
    with plain_server(tmp_path / "served") as url:
        report = fetch(f"{url}/my%20model/", tmp_path / "here")
    found = {path.name: path.read_bytes() for path in report.directory.iterdir() if path.name[0] != "."}
    assert found == {name: name.encode() * 1000 for name in ("config.json", "a b.bin", "100%.txt")}


def test_artifact_is_listed_by_its_index(tmp_path: Path) -> None:
    artifact = write_simulated_artifact(tmp_path / "served").directory
    with plain_server(tmp_path / "served") as url:
        found = list_files(Location.parse(f"{url}/{artifact.name}"), ACCESS)
    assert [file.name for file in found] == sorted(path.name for path in artifact.iterdir())


@pytest.mark.parametrize("name", ["model.tar", "model.tar.gz"])
def test_archive_is_fetched_in_pieces_and_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / "weights.bin").write_bytes(DATA)
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
        archive.add(tmp_path / "weights.bin", "model/weights.bin")
    with RangedServer({f"/{name}": (tmp_path / name).read_bytes()}) as server:
        report = fetch(server.url(f"/{name}?signature=1"), tmp_path / "here")
    assert (report.directory / "weights.bin").read_bytes() == DATA


def test_archive_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(8 << 20))
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "zeros", "zeros")
    with (
        RangedServer({"/bomb.tar.gz": (tmp_path / "bomb.tar.gz").read_bytes()}) as server,
        pytest.raises(CheckpointFormatError, match="more than 1048576 bytes when unpacked"),
    ):
        fetch(server.url("/bomb.tar.gz"), tmp_path / "here", max_bytes=1 << 20)


def test_stopped_fetch_goes_on_where_it_ended(tmp_path: Path) -> None:
    with RangedServer({"/m.gguf": DATA}) as server:
        fetch_: Fetch

        def stop_at_three(request: RangeRequest) -> FaultKind | None:
            if request.number == 3:
                fetch_.stop()
            return None

        server.fault = stop_at_three
        fetch_ = Fetch(Location.parse(server.url("/m.gguf")), tmp_path, ACCESS, max_bytes=1 << 30)
        with pytest.raises(ShuttingDownError, match="stopped"):
            fetch_.run()
        assert not (tmp_path / "m.gguf").exists()
        report = fetch(server.url("/m.gguf"), tmp_path)
        assert (tmp_path / "m.gguf").read_bytes() == DATA
        assert report.nbytes < len(DATA)


def test_object_that_changed_since_is_fetched_anew(tmp_path: Path) -> None:
    with RangedServer({"/m.gguf": DATA}) as server:
        fetch(server.url("/m.gguf"), tmp_path)
        server.objects["/m.gguf"] = DATA[::-1]
        assert fetch(server.url("/m.gguf"), tmp_path).nbytes == len(DATA)
    assert (tmp_path / "m.gguf").read_bytes() == DATA[::-1]


def test_progress_counts_up_to_the_size(tmp_path: Path) -> None:
    told: list[int] = []
    with RangedServer({"/m.gguf": DATA}) as server:
        location = Location.parse(server.url("/m.gguf"))
        Fetch(
            location, tmp_path, ACCESS, max_bytes=1 << 30, on_progress=lambda done, total: told.append(done)
        ).run()
    assert told == sorted(told) and told[-1] == len(DATA)


def test_larger_than_allowed_is_refused_before_a_byte_of_it_comes(tmp_path: Path) -> None:
    with RangedServer({"/m.gguf": DATA}) as server:
        with pytest.raises(InvalidRequestError, match="1000 are allowed"):
            fetch(server.url("/m.gguf"), tmp_path, max_bytes=1000)
        assert server.served.requests == []


def test_body_of_unknown_size_is_cut_off_at_the_bound(tmp_path: Path) -> None:
    with RangedServer({"/m.gguf": DATA}, has_ranges=False, tells_size=False) as server:
        assert fetch(server.url("/m.gguf"), tmp_path / "all").nbytes == len(DATA)
        with pytest.raises(PayloadTooLargeError, match="larger than 1000 bytes"):
            fetch(server.url("/m.gguf"), tmp_path / "cut", max_bytes=1000)


def test_private_address_behind_a_listing_is_not_followed(tmp_path: Path) -> None:
    page = b'<a href="http://169.254.169.254/x"></a><a href="../up"></a><a href="?C=N"></a><a href="ok.bin">ok</a>'
    with RangedServer({"/dir/": page, "/dir/ok.bin": b"ok"}) as server:
        assert [file.name for file in list_files(Location.parse(server.url("/dir/")), ACCESS)] == ["ok.bin"]


def test_private_url_is_refused_by_default(tmp_path: Path) -> None:
    strict = Access(HttpAccess(UrlPolicy()))
    with RangedServer({"/m.gguf": DATA}) as server, pytest.raises(PermissionDeniedError, match="loopback"):
        Fetch(Location.parse(server.url("/m.gguf")), tmp_path, strict, max_bytes=1 << 30).run()


def test_directory_that_lists_nothing_is_an_error() -> None:
    with (
        RangedServer({"/dir/": b"<html></html>"}) as server,
        pytest.raises(CorruptDataError, match="no files"),
    ):
        list_files(Location.parse(server.url("/dir/")), ACCESS)


def test_no_room_is_said_before_a_byte_comes(tmp_path: Path) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 60

    with (
        RangedServer({"/m.gguf": Huge(b"x")}) as server,
        pytest.raises(CapacityError, match=r"\d{15,} bytes are missing; free some"),
    ):
        fetch(server.url("/m.gguf"), tmp_path, max_bytes=1 << 62)
