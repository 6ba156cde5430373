# SPDX-License-Identifier: Apache-2.0
"""Our HTTP client against raw sockets that behave and misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from serverlessllm.errors import ConfigError, UnreachableError, WireError
from serverlessllm.orchestrator.upstream import HIGH_WATER_BYTES, Upstream
from support.front import eventually

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: b\r\n\r\nhi"
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def upstream_to(script: Script) -> AsyncIterator[Upstream]:
    """A client of a server that runs `script` on every connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left, which some tests are about
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    upstream = Upstream(f"http://{host}:{port}")
    try:
        yield upstream
    finally:
        upstream.abort()
        server.close()
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


def answering(*answers: bytes) -> Script:
    """One answer per request, then close."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()

    return script


async def test_request_is_framed_and_the_answer_read() -> None:
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(OK)

    async with upstream_to(script) as upstream:
        response = await upstream.send("POST", "/infer", b"x-one: 1\r\n", b'{"a":1}')
        assert (response.status, response.headers["x-a"]) == (200, "b")
        assert await response.read_all(10) == b"hi"
    assert seen[0].startswith(b"POST /infer HTTP/1.1\r\nhost: 127.0.0.1:")
    assert seen[0].endswith(b'content-length: 7\r\nx-one: 1\r\n\r\n{"a":1}')


async def test_finished_connection_is_used_again() -> None:
    async with upstream_to(answering(OK, OK)) as upstream:
        for _ in range(2):
            response = await upstream.send("POST", "/", b"", b"")
            await response.read_all(10)
            response.close()
        assert upstream.num_open == 1


async def test_kept_connection_that_was_closed_meanwhile_is_replaced_in_silence() -> None:
    async with upstream_to(answering(OK)) as upstream:
        for _ in range(3):
            response = await upstream.send("POST", "/", b"", b"")
            assert await response.read_all(10) == b"hi"
            response.close()


async def test_unread_answer_closes_its_connection() -> None:
    async with upstream_to(answering(OK, OK)) as upstream:
        (await upstream.send("POST", "/", b"", b"")).close()
        await eventually(lambda: not upstream.num_open)


async def test_cut_body_is_an_error_after_what_arrived() -> None:
    cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\nde"
    async with upstream_to(answering(cut)) as upstream:
        response = await upstream.send("POST", "/", b"", b"")
        arrived = b""
        with pytest.raises(UnreachableError):
            while part := await response.read():
                arrived += part
    assert arrived.startswith(b"abc")


async def test_connection_closed_without_an_answer_is_unreachable() -> None:
    async with upstream_to(answering(b"")) as upstream:
        with pytest.raises(UnreachableError):
            await upstream.send("POST", "/", b"", b"")


async def test_nobody_listening_is_unreachable() -> None:
    with pytest.raises(UnreachableError, match="127.0.0.1:1"):
        await Upstream("http://127.0.0.1:1").send("POST", "/", b"", b"")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x-h: v\r\n" * 100 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx-h: " + b"v" * 40_000 + b"\r\n\r\n",
    ],
)
async def test_malformed_or_oversized_head_is_a_wire_error(answer: bytes) -> None:
    async with upstream_to(answering(answer)) as upstream:
        with pytest.raises(WireError):
            await upstream.send("POST", "/", b"", b"")


async def test_answer_above_its_bound_is_refused() -> None:
    async with upstream_to(answering(OK)) as upstream:
        response = await upstream.send("POST", "/", b"", b"")
        with pytest.raises(WireError):
            await response.read_all(1)


async def test_slow_reader_slows_the_sender() -> None:
    num_sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(1000):
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()
            num_sent += 1
        writer.write(b"0\r\n\r\n")

    async with upstream_to(script) as upstream:
        response = await upstream.send("POST", "/", b"", b"")
        last = -1
        while num_sent > last:  # until the sender stands still
            last = num_sent
            await asyncio.sleep(0.1)
        assert num_sent < 1000
        part = await response.read()
        assert len(part) < 2 * HIGH_WATER_BYTES
        size = len(part)
        while part := await response.read():
            size += len(part)
    assert size == 1000 * 0x10000


async def test_cancelled_request_closes_its_connection() -> None:
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        try:
            assert await reader.read() == b""
        finally:
            gone.set()

    async with upstream_to(script) as upstream:
        call = asyncio.create_task(upstream.send("POST", "/", b"", b""))
        await eventually(lambda: upstream.num_open)
        call.cancel()
        await asyncio.wait_for(gone.wait(), 30)


@pytest.mark.parametrize("address", ["127.0.0.1:80", "ftp://a:1", "http://no-port", "https://no-port"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        Upstream(address)


async def test_request_on_a_kept_connection_is_not_sent_again_when_its_agent_is_given_up() -> None:
    requests: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))
        writer.write(OK)
        requests.append(await read_request(reader))
        await reader.read()

    async with upstream_to(script) as upstream:
        response = await upstream.send("POST", "/infer", b"", b"{}")
        await response.read_all(10)
        response.close()
        waiting = asyncio.create_task(upstream.send("POST", "/infer", b"", b"{}"))
        await eventually(lambda: len(requests) == 2)
        upstream.abort()
        with pytest.raises(UnreachableError, match="given up"):
            await waiting
    assert len(requests) == 2
