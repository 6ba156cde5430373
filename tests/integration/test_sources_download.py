# SPDX-License-Identifier: Apache-2.0
"""Fan-out over real servers: slow ones, dying ones, lying ones, hanging ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from serverlessllm.errors import UnreachableError
from serverlessllm.sources.download import Download, DownloadReport
from serverlessllm.sources.http import HttpSource
from serverlessllm.sources.http_connection import HttpAccess
from serverlessllm.sources.url_policy import UrlPolicy
from support.byte_sink import ByteSink, pieces_of
from support.ranged_server import FaultKind, RangedServer, RangeRequest

PIECE = 1 << 20
DATA = os.urandom(24 * PIECE + 1234)
ACCESS = HttpAccess(UrlPolicy(allow_private=True), stall_timeout_s=60)


@pytest.fixture
def fast() -> Iterator[RangedServer]:
    with RangedServer({"/m": DATA}) as server:
        yield server


def fetch(*servers: RangedServer, num_workers: int = 4) -> DownloadReport:
    """Fetch DATA from all of them; the bytes are checked here."""
    sink = ByteSink(len(DATA))
    sources = [HttpSource(server.url("/m"), ACCESS) for server in servers]
    try:
        report = Download(pieces_of(DATA, PIECE), sources, sink, num_workers=num_workers).run()
    finally:
        for source in sources:
            source.close()
    assert bytes(sink.buffer) == DATA and len(set(sink.accepted)) == len(sink.accepted) == 25
    return report


def test_single_origin_is_asked_for_hardly_a_byte_twice(fast: RangedServer) -> None:
    fetch(fast)
    # At the end idle workers take pieces over that are part of another's request already.
    asked_bytes = sum(request.end - request.start for request in fast.served.requests)
    assert len(DATA) <= asked_bytes <= len(DATA) + 3 * PIECE


def test_lone_origin_is_asked_for_several_pieces_at_once() -> None:
    data = os.urandom(64 * 1000)
    with RangedServer({"/m": data}) as server, HttpSource(server.url("/m"), ACCESS) as source:
        sink = ByteSink(len(data))
        assert Download(pieces_of(data, 1000), [source], sink, num_workers=2).run().is_complete
    assert bytes(sink.buffer) == data
    assert len(server.served.requests) < 64 / 2
    assert sum(request.end - request.start for request in server.served.requests) >= len(data)


def test_origin_that_hangs_for_ever_does_not_hold_up_the_end(fast: RangedServer) -> None:
    with RangedServer({"/m": DATA}, fault=lambda _: "stall") as hanging:
        report = fetch(hanging, fast)
    assert report.num_stolen >= 1 and report.origins[0].nbytes == 0


def test_slow_origin_contributes_and_its_last_piece_is_taken_over(fast: RangedServer) -> None:
    fast.bytes_per_s = 40e6
    with RangedServer({"/m": DATA}, bytes_per_s=1e6) as slow:
        report = fetch(slow, fast)
    assert report.origins[1].nbytes > 10 * report.origins[0].nbytes


def test_server_that_lies_on_the_wire_is_quarantined(fast: RangedServer) -> None:
    with RangedServer({"/m": DATA}, fault=lambda _: "corrupt") as liar:
        report = fetch(liar, fast)
        num_requests = len(liar.served.requests)
    assert num_requests <= 4 and "have digest" in str(report.origins[0].closed)


@pytest.mark.parametrize("fault", ["truncate", "wrong_range", "whole", "error_500", "new_etag", "gzip"])
def test_misbehaving_origin_costs_nothing_but_time(fast: RangedServer, fault: FaultKind) -> None:
    with RangedServer({"/m": DATA}, fault=lambda _: fault) as odd:
        report = fetch(odd, fast)
    assert report.origins[0].nbytes == 0 and report.is_complete


def test_single_origin_that_fails_now_and_then_is_enough() -> None:
    def now_and_then(request: RangeRequest) -> FaultKind | None:
        return {3: "truncate", 7: "error_500", 11: "truncate"}.get(request.number)  # type: ignore[return-value]

    with RangedServer({"/m": DATA}, fault=now_and_then) as shaky:
        report = fetch(shaky)
    assert report.origins[0].num_failures == 3


def test_hanging_connection_of_a_lone_origin_is_asked_again() -> None:
    with RangedServer({"/m": DATA}, fault=lambda one: "stall" if one.number == 5 else None) as server:
        report = fetch(server)
    assert report.num_stolen == 1


def test_origin_that_dies_midway_leaves_the_rest_to_the_other(fast: RangedServer) -> None:
    with RangedServer({"/m": DATA}, fault=lambda one: "error_500" if one.number > 3 else None) as dying:
        report = fetch(dying, fast)
    assert report.origins[0].num_failures >= 1


def test_no_server_left_names_it_and_can_be_retried() -> None:
    with RangedServer({"/m": DATA}) as server:
        url = server.url("/m")
    quick = HttpAccess(UrlPolicy(allow_private=True), connect_timeout_s=0.2)
    download = Download(pieces_of(DATA, PIECE), [HttpSource(url, quick)], ByteSink(len(DATA)), max_failures=4)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1.*refused.*4 failures in a row"):
        download.run()


def test_stop_ends_reads_that_hang() -> None:
    asked = threading.Event()

    def hang(request: RangeRequest) -> FaultKind | None:
        asked.set()
        return "stall"

    with RangedServer({"/m": DATA}, fault=hang) as server, HttpSource(server.url("/m"), ACCESS) as source:
        download = Download(pieces_of(DATA, PIECE), [source], ByteSink(len(DATA)))
        reports: list[DownloadReport] = []
        thread = threading.Thread(target=lambda: reports.append(download.run()))
        thread.start()
        assert asked.wait(30)
        download.stop()
        thread.join(30)
    assert [report.is_complete for report in reports] == [False]
