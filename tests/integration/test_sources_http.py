# SPDX-License-Identifier: Apache-2.0
"""Ranges over HTTP from real servers, honest and not."""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path

import pytest
import trustme

from serverlessllm.errors import (
    CorruptDataError,
    ModelLoadError,
    PermissionDeniedError,
    SllmError,
    UnreachableError,
)
from serverlessllm.sources.http import HttpSource
from serverlessllm.sources.http_connection import HttpAccess, trusted_certificates
from serverlessllm.sources.url_policy import UrlPolicy
from support.ranged_server import FaultKind, RangedServer

DATA = os.urandom(300_000)
ACCESS = HttpAccess(UrlPolicy(allow_private=True), stall_timeout_s=0.5)


def read(source: HttpSource, offset: int, nbytes: int) -> bytes:
    view = memoryview(bytearray(nbytes))
    return bytes(view[: source.read_into(offset, view)])


@pytest.mark.parametrize(
    ("offset", "nbytes"), [(0, 100), (1, 299_999), (299_990, 100), (300_000, 5), (400_000, 5)]
)
def test_read_gives_the_bytes_and_stops_at_the_end(offset: int, nbytes: int) -> None:
    with RangedServer({"/m": DATA}) as server, HttpSource(server.url("/m"), ACCESS) as source:
        assert read(source, offset, nbytes) == DATA[offset : offset + nbytes]
        assert source.size == len(DATA)


def test_empty_object_has_size_zero() -> None:
    with RangedServer({"/m": b""}) as server, HttpSource(server.url("/m"), ACCESS) as source:
        assert (source.size, read(source, 0, 10)) == (0, b"")


def test_one_thread_keeps_its_connection() -> None:
    with RangedServer({"/m": DATA}) as server, HttpSource(server.url("/m"), ACCESS) as source:
        for at in range(0, 1000, 100):
            assert read(source, at, 100) == DATA[at : at + 100]
        ports = {request.headers["host"] for request in server.served.requests}
    assert len(server.served.requests) == 10 and len(ports) == 1


def test_announced_bytes_are_asked_for_once() -> None:
    with RangedServer({"/m": DATA}) as server, HttpSource(server.url("/m"), ACCESS) as source:
        source.announce(1000, 3000)
        assert b"".join(read(source, at, 1000) for at in (1000, 2000, 3000)) == DATA[1000:4000]
        assert read(source, 0, 10) == DATA[:10]
    assert [(one.start, one.end) for one in server.served.requests] == [(1000, 4000), (0, 10)]


def test_announcement_may_be_broken_and_may_reach_beyond_the_end() -> None:
    with RangedServer({"/m": DATA}) as server, HttpSource(server.url("/m"), ACCESS) as source:
        source.announce(0, 10_000_000)
        assert read(source, 0, 1000) == DATA[:1000]
        assert read(source, 250_000, 1000) == DATA[250_000:251_000]
        assert read(source, 251_000, 1000) == DATA[251_000:252_000]


def test_failure_in_the_middle_of_announced_bytes_is_told_and_the_next_read_is_right() -> None:
    with RangedServer({"/m": DATA}) as server, HttpSource(server.url("/m"), ACCESS) as source:
        server.fault = lambda request: "truncate" if request.number == 0 else None
        source.announce(0, 3000)
        assert read(source, 0, 1000) == DATA[:1000]
        with pytest.raises(UnreachableError, match="ended after 500 of 1000"):
            read(source, 1000, 1000)
        assert read(source, 1000, 1000) == DATA[1000:2000]


def test_kept_connection_that_the_server_closed_is_opened_anew() -> None:
    with RangedServer({"/m": DATA}) as server, HttpSource(server.url("/m"), ACCESS) as source:
        server.fault = lambda request: "truncate" if request.number == 0 else None
        with pytest.raises(UnreachableError, match="ended after"):
            read(source, 0, 1000)
        assert read(source, 0, 1000) == DATA[:1000]


@pytest.mark.parametrize(
    ("fault", "expected", "says"),
    [
        ("truncate", UnreachableError, "ended after 500 of 1000 bytes"),
        ("wrong_range", ModelLoadError, "asked for bytes 1000-1999 it sends 1001-2000"),
        ("whole", ModelLoadError, "answers a range with the whole object"),
        ("error_500", UnreachableError, "HTTP 500"),
        ("stall", UnreachableError, "timed out"),
        ("new_etag", CorruptDataError, "has changed"),
        ("gzip", ModelLoadError, "as 'gzip'"),
        ("long", ModelLoadError, "more bytes than were asked for"),
    ],
)
def test_server_that_misbehaves_is_an_error_that_says_how(
    fault: FaultKind, expected: type[SllmError], says: str
) -> None:
    with (
        RangedServer({"/m": DATA}, fault=lambda _: fault) as server,
        HttpSource(server.url("/m"), ACCESS) as source,
        pytest.raises(expected, match=says),
    ):
        read(source, 1000, 1000)


def test_object_that_changes_after_it_was_opened_is_an_error_not_a_mixture() -> None:
    with RangedServer({"/m": DATA}) as server, HttpSource(server.url("/m"), ACCESS) as source:
        assert read(source, 0, 1000) == DATA[:1000]
        server.objects["/m"] = os.urandom(len(DATA))
        with pytest.raises(CorruptDataError, match="has changed"):
            read(source, 1000, 1000)


def test_missing_object_is_named_without_its_query() -> None:
    with (
        RangedServer({}) as server,
        HttpSource(server.url("/gone?signature=secret"), ACCESS) as source,
        pytest.raises(CorruptDataError, match="/gone does not exist") as caught,
    ):
        read(source, 0, 1)
    assert "secret" not in str(caught.value)


def test_nobody_listening_is_unreachable() -> None:
    with RangedServer({}) as server:
        url = server.url("/m")
    with HttpSource(url, ACCESS) as source, pytest.raises(UnreachableError, match="refused"):
        _ = source.size


def test_redirect_is_followed_and_credentials_stay_at_home() -> None:
    with RangedServer({"/real": DATA}) as there, RangedServer({}) as here:
        here.redirects["/m"] = there.url("/real")
        source = HttpSource(here.url("/m"), ACCESS, headers={"Authorization": "Bearer secret"})
        with source:
            assert read(source, 5, 100) == DATA[5:105]
        assert all("authorization" not in request.headers for request in there.served.requests)
        assert all("authorization" not in request.headers for request in there.served.probes)


def test_credentials_reach_the_origin_that_they_are_for() -> None:
    with RangedServer({"/m": DATA}) as server:
        with HttpSource(server.url("/m"), ACCESS, headers={"Authorization": "Bearer secret"}) as source:
            read(source, 0, 10)
        assert server.served.requests[0].headers["authorization"] == "Bearer secret"


def test_redirect_to_a_metadata_service_is_refused() -> None:
    with RangedServer({}) as server:
        server.redirects["/m"] = "http://169.254.169.254/latest/meta-data/"
        with (
            HttpSource(server.url("/m"), ACCESS) as source,
            pytest.raises(PermissionDeniedError, match="metadata"),
        ):
            read(source, 0, 10)


def test_redirect_of_a_trusted_origin_to_a_private_address_is_refused() -> None:
    with RangedServer({"/m": DATA}) as inside, RangedServer({}) as front:
        front.redirects["/m"] = inside.url("/m")
        access = HttpAccess(UrlPolicy().trusting(front.url("/")))
        with (
            HttpSource(front.url("/m"), access) as source,
            pytest.raises(PermissionDeniedError, match="loopback"),
        ):
            read(source, 0, 10)
    assert inside.served.probes == []


def test_redirect_loop_ends() -> None:
    with RangedServer({}) as server:
        server.redirects["/m"] = server.url("/m")
        with HttpSource(server.url("/m"), ACCESS) as source, pytest.raises(ModelLoadError, match="redirects"):
            read(source, 0, 10)


def test_name_that_changes_its_address_is_connected_to_where_it_was_checked() -> None:
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    with RangedServer({"/m": DATA}) as server:
        access = HttpAccess(UrlPolicy(allow_private=True, resolve=lambda host, port: next(answers)))
        with HttpSource(server.url("/m", host="rebind.example"), access) as source:
            assert read(source, 0, 10) + read(source, 10, 10) == DATA[:20]
    assert next(answers) == ["169.254.169.254"]  # never asked again


def test_link_that_ran_out_is_renewed_once() -> None:
    with RangedServer({"/a": DATA, "/b": DATA}) as server:
        links = iter([server.url("/a"), server.url("/b")])
        with HttpSource(lambda: next(links), ACCESS, name="signed") as source:
            assert read(source, 0, 10) == DATA[:10]
            server.forbidden.add("/a")
            assert read(source, 10, 10) == DATA[10:20]


def test_tls_needs_a_certificate_that_we_trust(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    trusting = HttpAccess(UrlPolicy(allow_private=True), tls=trusted_certificates(ca_file))
    with RangedServer({"/m": DATA}, tls=context) as server:
        with HttpSource(server.url("/m"), trusting) as source:
            assert read(source, 0, len(DATA)) == DATA
        with (
            HttpSource(server.url("/m"), ACCESS) as source,
            pytest.raises(ModelLoadError, match=r"does not prove who it is.*sources\.ca_file"),
        ):
            read(source, 0, 10)


@pytest.mark.parametrize("is_secured", [False, True])
def test_interrupt_ends_a_read_that_hangs(is_secured: bool, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    patient = HttpAccess(
        UrlPolicy(allow_private=True), tls=trusted_certificates(tmp_path / "ca.pem"), stall_timeout_s=60
    )
    ended: list[type[BaseException]] = []
    asked = threading.Event()

    def hang(request: object) -> FaultKind | None:
        asked.set()
        return "stall"

    with (
        RangedServer({"/m": DATA}, fault=hang, tls=context if is_secured else None) as server,
        HttpSource(server.url("/m"), patient) as source,
    ):

        def work() -> None:
            try:
                read(source, 0, 1000)
            except SllmError as error:
                ended.append(type(error))

        thread = threading.Thread(target=work)
        thread.start()
        assert asked.wait(30)
        source.interrupt(thread.ident or 0)
        thread.join(30)
    assert ended == [UnreachableError]
