# SPDX-License-Identifier: Apache-2.0
"""Our HTTP/1.1 client of `/infer`: asyncio.Protocol and httptools, a keep-alive pool per agent.

Written for the hot path: one request at a time per connection, the body's bytes are handed on as they came.
Knows no model, no stream grammar and no retries beyond its own: a kept connection that turns out to be closed
before the first byte of an answer is replaced once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from serverlessllm.config import TlsConfig
from serverlessllm.errors import ConfigError, SllmError, UnreachableError, WireError
from serverlessllm.sdk.tls import ClientTls, certificate_error

JSON: Final = "application/json"
CONNECT_TIMEOUT_S: Final = 5.0
DRAIN_S: Final = 1.0
MAX_IDLE_CONNECTIONS: Final = 256
MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 32 << 10
HIGH_WATER_BYTES: Final = 256 << 10
"""Received but not read: above this the agent's socket is not read, so that a slow client slows the engine."""


class _Connection(asyncio.Protocol):
    """One connection; carries one exchange after another. Its owner calls `start`, then reads."""

    def __init__(self, pool: Upstream) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._num_headers = 0
        self._header_bytes = 0
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._is_paused = False
        self._keeps_alive = False
        self.headers: dict[str, str] = {}
        self.status = 0
        self.has_head = False
        self.is_complete = False
        self.is_lost = False
        self.error: SllmError | None = None
        self.sink: Callable[[bytes], bool] | None = None

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse; stop reading while too much waits for its reader."""
        if self.is_complete:
            self.abort()  # bytes that nobody asked for: the framing can no longer be trusted
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, WireError) as error:
            cause = error.__context__ if isinstance(error.__context__, WireError) else error
            self.error = WireError(f"the agent's answer is malformed: {cause}", source="agent")
            self.abort()
        if self.sink is not None and self._chunks and self._offer(self.sink) and not self.is_complete:
            return
        if self._buffered_bytes > HIGH_WATER_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def _offer(self, sink: Callable[[bytes], bool]) -> bool:
        """Whether `sink` took what waits to be read. What it raises ends the connection, for the reader to see."""
        chunks = self._chunks
        try:
            is_taken = sink(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        except SllmError as error:
            self.fail(error)
            return False
        if is_taken:
            self._chunks, self._buffered_bytes = [], 0
        return is_taken

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by whomever."""
        self._transport = None
        if exc is not None and self.error is None:
            self.error = certificate_error(exc, self._pool.address)
        self.is_lost = True
        self._pool.forget(self)
        self._wake()

    # what httptools calls

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. Raises WireError above the bounds, which httptools wraps."""
        self._num_headers += 1
        self._header_bytes += len(name) + len(value)
        if self._num_headers > MAX_HEADERS or self._header_bytes > MAX_HEADER_BYTES:
            raise WireError(f"more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them")
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Status and headers are whole."""
        self.status = self._parser.get_status_code()
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        self._chunks.append(body)
        self._buffered_bytes += len(body)

    def on_message_complete(self) -> None:
        """The body is whole."""
        self.is_complete = True
        self._keeps_alive = bool(self._parser.should_keep_alive())

    # what the pool and the response call

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def can_be_kept(self) -> bool:
        """Whether the exchange ended so that another one may follow."""
        return self.is_open and self.is_complete and not self._chunks and self._keeps_alive

    def start(self, request: bytes, body: bytes) -> None:
        """Send one request. The connection is open and idle."""
        self._reset()
        if self._transport is None or self._transport.is_closing():
            self.is_lost = True
            return
        self._transport.writelines((request, body))

    async def head(self) -> None:
        """Wait for the answer's status and headers; returns with `has_head` False if the agent went away."""
        while not self.has_head and not self.is_lost:
            await self._wait()

    async def read(self) -> bytes:
        """The bytes that have arrived, at least one; b"" at the message's end. Raises UnreachableError when cut."""
        while not self._chunks:
            if self.is_complete:
                return b""
            if self.is_lost:
                raise self.error or UnreachableError("the agent's answer was cut", source="agent")
            await self._wait()
        chunks, self._chunks, self._buffered_bytes = self._chunks, [], 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def fail(self, error: SllmError) -> None:
        """Close at once; its reader gets `error`."""
        self.error = error
        self.abort()

    def abort(self) -> None:
        """Close at once; the agent sees a client that left."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class UpstreamResponse:
    """An answer whose status and headers have arrived. `close` when done with it, whole or not."""

    def __init__(self, pool: Upstream, connection: _Connection) -> None:
        self._pool = pool
        self._connection = connection
        self.status = connection.status
        self.headers = connection.headers

    async def read(self) -> bytes:
        """The next body bytes; b"" at the end. Raises UnreachableError when the agent went away before it."""
        return await self._connection.read()

    def divert(self, sink: Callable[[bytes], bool]) -> None:
        """Offer what arrives to `sink` at once, without a task's turn; what it refuses (False) is for `read`."""
        self._connection.sink = sink

    async def read_all(self, max_bytes: int) -> bytes:
        """The whole rest of the body. Raises WireError above `max_bytes`, UnreachableError when it is cut."""
        parts: list[bytes] = []
        size_bytes = 0
        while part := await self._connection.read():
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > max_bytes:
                raise WireError(f"the agent's answer exceeds {max_bytes} bytes", source="agent")
        return b"".join(parts)

    async def drain(self) -> None:
        """Nothing more is wanted: let the message end, briefly, so that the connection can be kept."""
        if not self._connection.is_complete:
            with suppress(TimeoutError, UnreachableError):
                async with asyncio.timeout(DRAIN_S):
                    await self._connection.read()

    def fail(self, error: SllmError) -> None:
        """Break it off: whoever reads it gets `error`."""
        self._connection.fail(error)

    def close(self) -> None:
        """Keep the connection if the answer was read to its end, else abort it (which cancels the request)."""
        self._pool.release(self._connection)


class Upstream:
    """The connections to one agent, `http[s]://host:port`. Raises ConfigError for any other address."""

    def __init__(self, address: str, tls: ClientTls | None = None) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or parts.hostname is None or parts.port is None:
            raise ConfigError(f"agent address {address!r}: write http[s]://host:port", param="agents")
        self.address = address
        self._tls = (tls or ClientTls(TlsConfig())).context(address)
        self._host, self._port = parts.hostname, parts.port
        self._host_line = f"host: {parts.netloc}\r\n".encode()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    @property
    def num_open(self) -> int:
        """Connections in use or kept."""
        return len(self._open)

    async def send(
        self, method: str, path: str, headers: bytes, body: bytes = b"", content_type: str = JSON
    ) -> UpstreamResponse:
        """Send a request; returns when status and headers have arrived.

        `headers` are complete lines, each ended by CRLF. Cancelling closes the connection.
        Raises: UnreachableError when there is no connection or it was lost before the head; WireError.
        """
        kind = b"content-type: %b\r\n" % content_type.encode() if body else b""
        request = b"".join(
            (
                b"%b %b HTTP/1.1\r\n" % (method.encode(), path.encode()),
                self._host_line,
                kind,
                b"content-length: %d\r\n" % len(body),
                headers,
                b"\r\n",
            )
        )
        while self._idle:
            kept = self._idle.pop()
            if not kept.is_open:
                continue
            response = await self._exchange(kept, request, body)
            if response is not None:
                return response
            break
        response = await self._exchange(await self._connect(), request, body)
        if response is None:
            raise UnreachableError(
                f"agent {self.address} closed the connection without an answer", source="agent"
            )
        return response

    async def _exchange(
        self, connection: _Connection, request: bytes, body: bytes
    ) -> UpstreamResponse | None:
        """One request and its answer's head; None when the connection was lost before any of it."""
        try:
            connection.start(request, body)
            await connection.head()
        except BaseException:
            connection.abort()
            raise
        if connection.error is not None:
            raise connection.error
        return UpstreamResponse(self, connection) if connection.has_head else None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=self._tls
                )
        except OSError as error:  # TimeoutError is one, and so are TLS errors
            refused = certificate_error(error, self.address)
            if refused is not None:
                raise refused from error
            reason = error.strerror or type(error).__name__
            raise UnreachableError(
                f"agent {self.address} cannot be reached: {reason}", source="agent"
            ) from error
        self._open.add(connection)
        return connection

    def release(self, connection: _Connection) -> None:
        """An exchange is over."""
        if connection.can_be_kept and len(self._idle) < MAX_IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.abort()

    def forget(self, connection: _Connection) -> None:
        """A connection was lost."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def abort(self) -> None:
        """Close every connection: the agent is gone, or we stop. What waits on them is told, and not sent again.

        It may have arrived, or arrive later: sent twice, one would take the other's place.
        """
        for connection in list(self._open):
            connection.fail(UnreachableError(f"agent {self.address} was given up", source="agent"))
