# SPDX-License-Identifier: Apache-2.0
"""S3 from a real server: signing, ranges, listing, publishing."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import obstore
import pytest
import trustme
from benchmarks._harness.seaweed import BUCKET, Seaweed

from serverlessllm.errors import CorruptDataError, PermissionDeniedError
from serverlessllm.sources.access import Access
from serverlessllm.sources.fetch import Fetch
from serverlessllm.sources.http_connection import HttpAccess, trusted_certificates
from serverlessllm.sources.location import Location, list_files, open_source
from serverlessllm.sources.s3_upload import upload_directory
from serverlessllm.sources.url_policy import UrlPolicy

DATA = os.urandom(20 << 20)
STRICT = HttpAccess(UrlPolicy())


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def access(seaweed: Seaweed) -> Access:
    """Private addresses are not allowed: the endpoint is, because the operator named it."""
    return Access(STRICT, seaweed.environment)


def directory(parent: Path) -> Path:
    made = parent / "artifact"
    (made / "sub").mkdir(parents=True)
    (made / "model.bin").write_bytes(DATA)
    (made / "config.json").write_bytes(b"{}")
    (made / "sub" / "a file.txt").write_bytes(b"text")
    (made / "model.idx").write_bytes(b'{"format":"sllm-checkpoint"}')
    return made


def test_ranges_of_an_object_are_its_bytes(seaweed: Seaweed, access: Access) -> None:
    obstore.put(seaweed.store(), "ranges/model.bin", DATA)
    source = open_source(Location.parse(f"s3://{BUCKET}/ranges"), "model.bin", access)
    view = memoryview(bytearray(1 << 20))
    assert source.size == len(DATA) and source.read_into(5 << 20, view) == len(view)
    assert bytes(view) == DATA[5 << 20 : 6 << 20]
    source.close()


def test_published_directory_comes_back_equal(access: Access, tmp_path: Path) -> None:
    here, location = directory(tmp_path), Location.parse(f"s3://{BUCKET}/published/rev")
    told: list[tuple[int, int]] = []
    report = upload_directory(here, location, access, on_progress=lambda *at: told.append(at))
    assert report.nbytes == told[-1][0] == told[-1][1] and not report.was_published
    assert [file.name for file in list_files(location, access)] == [
        "config.json",
        "model.bin",
        "model.idx",
        "sub/a file.txt",
    ]
    back = Fetch(location, tmp_path / "back", access, max_bytes=1 << 30).run().directory
    for path in here.rglob("*.*"):
        assert (back / path.relative_to(here)).read_bytes() == path.read_bytes()


def test_publishing_again_sends_nothing(access: Access, tmp_path: Path) -> None:
    here, location = directory(tmp_path), Location.parse(f"s3://{BUCKET}/again")
    upload_directory(here, location, access)
    assert upload_directory(here, location, access).was_published


def test_published_copy_that_is_not_trusted_is_written_over(
    seaweed: Seaweed, access: Access, tmp_path: Path
) -> None:
    here, location = directory(tmp_path), Location.parse(f"s3://{BUCKET}/anew")
    upload_directory(here, location, access)
    obstore.put(seaweed.store(), "anew/model.bin", DATA[:-1] + b"!")
    assert not upload_directory(here, location, access, is_trusted=False).was_published
    assert bytes(obstore.get(seaweed.store(), "anew/model.bin").bytes()) == DATA


def test_upload_that_is_cut_off_shows_no_index(seaweed: Seaweed, access: Access, tmp_path: Path) -> None:
    def cancel(done_bytes: int, total_bytes: int) -> None:
        if done_bytes > 16 << 20:
            raise KeyboardInterrupt

    location = Location.parse(f"s3://{BUCKET}/cut")
    with suppress(BaseException):
        upload_directory(directory(tmp_path), location, access, on_progress=cancel)
    assert "model.idx" not in [file.name for file in list_files(location, access)]


def test_wrong_secret_is_permission_denied(seaweed: Seaweed) -> None:
    wrong = Access(STRICT, {**seaweed.environment, "AWS_SECRET_ACCESS_KEY": "wrong"})
    location = Location.parse(f"s3://{BUCKET}/x")
    with pytest.raises(PermissionDeniedError, match="credentials"):
        list_files(location, wrong)
    with pytest.raises(PermissionDeniedError, match="403"):
        open_source(location, "model.bin", wrong).read_into(0, memoryview(bytearray(1)))


def test_missing_object_and_empty_prefix_are_named(access: Access) -> None:
    location = Location.parse(f"s3://{BUCKET}/nothing/here")
    with pytest.raises(CorruptDataError, match=f"s3://{BUCKET}/nothing/here/model.bin does not exist"):
        _ = open_source(location, "model.bin", access).size
    with pytest.raises(CorruptDataError, match="holds nothing"):
        list_files(location, access)


def test_keys_come_from_the_profile_files_too(seaweed: Seaweed, tmp_path: Path) -> None:
    obstore.put(seaweed.store(), "profile/a.json", b"{}")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[work]\naws_access_key_id = test-access\naws_secret_access_key = test-secret\n"
    )
    (tmp_path / ".aws" / "config").write_text(
        f"[profile work]\nregion = us-east-1\nendpoint_url = {seaweed.endpoint}\n"
    )
    access = Access(STRICT, {"HOME": str(tmp_path), "AWS_PROFILE": "work"})
    assert [file.name for file in list_files(Location.parse(f"s3://{BUCKET}/profile"), access)] == ["a.json"]


def test_tls_endpoint_is_believed_with_its_authority_only(seaweed: Seaweed, tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    obstore.put(seaweed.store(), "tls/model.bin", DATA)
    location = Location.parse(f"s3://{BUCKET}/tls")
    with _TlsFront(authority, seaweed.endpoint) as endpoint:
        environment = {**seaweed.environment, "AWS_ENDPOINT_URL": endpoint}
        access = Access(
            HttpAccess(UrlPolicy(), tls=trusted_certificates(ca_file)), environment, ca_file=ca_file
        )
        assert [file.name for file in list_files(location, access)] == ["model.bin"]
        Fetch(location, tmp_path / "back", access, max_bytes=1 << 30).run()
        with pytest.raises(Exception, match="does not prove who it is"):
            open_source(location, "model.bin", Access(STRICT, environment)).read_into(
                0, memoryview(bytearray(1))
            )
    assert (tmp_path / "back" / "model.bin").read_bytes() == DATA


class _TlsFront:
    """Ends TLS in front of a plain server, byte for byte."""

    def __init__(self, authority: trustme.CA, behind: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._context)
        self._behind = ("127.0.0.1", int(behind.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def __enter__(self) -> str:
        threading.Thread(target=self._serve, daemon=True).start()
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, plain: socket.socket) -> None:
        with (
            suppress(OSError),
            self._context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(self._behind) as server,
        ):
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()

    def __exit__(self, *_: object) -> None:
        self._listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
