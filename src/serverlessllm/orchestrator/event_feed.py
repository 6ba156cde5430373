# SPDX-License-Identifier: Apache-2.0
"""Our end of one agent's event stream: bytes in, events out, without a task's turn for each.

Hundreds of agents send tens of events a second each; `sdk.agent.AgentClient.events` is the same for everybody else.
Knows not what an event means.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final, cast
from urllib.parse import urlsplit

import httptools
import msgspec

from serverlessllm.errors import SllmError, UnreachableError, WireError, from_openai
from serverlessllm.sdk.agent import SILENCE_S, EventSplitter
from serverlessllm.sdk.tls import certificate_error
from serverlessllm.wire import WIRE_VERSION
from serverlessllm.wire.agent import SECRET_HEADER, WIRE_HEADER
from serverlessllm.wire.events import AgentEvent

CONNECT_TIMEOUT_S: Final = 5.0
MAX_ERROR_BYTES: Final = 1 << 20

Take = Callable[[int, AgentEvent], None]


class _Feed(asyncio.Protocol):
    """One connection. `ended` has why it is over."""

    def __init__(self, address: str, take: Take) -> None:
        loop = asyncio.get_running_loop()
        self._address = address
        self._take = take
        self._splitter = EventSplitter()
        self._parser = httptools.HttpResponseParser(self)
        self._refusal = b""
        self._status = 0
        self._heard_s = time.monotonic()
        self._transport: asyncio.Transport | None = None
        self._timer = loop.call_later(SILENCE_S, self._look)
        self.ended: asyncio.Future[SllmError] = loop.create_future()

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Events are taken before this returns; what is wrong with them ends the stream."""
        self._heard_s = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._end(cause if isinstance(cause, SllmError) else WireError(f"agent {self._address}: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The agent went away, or we did."""
        self._transport = None
        refused = None if exc is None else certificate_error(exc, self._address)
        self._end(
            refused or UnreachableError(f"agent {self._address} ended its event stream", source="agent")
        )

    # what httptools calls

    def on_headers_complete(self) -> None:
        """Status and headers are whole."""
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Some of the stream, or of an error."""
        if self._status != 200:
            self._refusal += body[: MAX_ERROR_BYTES - len(self._refusal)]
            return
        for seq, event in self._splitter.feed(body):
            self._take(seq, event)

    def on_message_complete(self) -> None:
        """The agent ended the stream itself, or refused."""
        if self._status != 200:
            try:
                refusal = msgspec.json.decode(self._refusal)
            except msgspec.MsgspecError:
                refusal = None
            self._end(from_openai(refusal, status=self._status))
        elif self._transport is not None:
            self._transport.close()

    # ours

    def send(self, request: bytes) -> None:
        """The request; nothing where the connection is lost already."""
        if self._transport is not None:
            self._transport.write(request)

    def close(self) -> None:
        """Nobody listens any more."""
        self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _look(self) -> None:
        """A stream that is silent for so long belongs to a dead agent."""
        left_s = self._heard_s + SILENCE_S - time.monotonic()
        if left_s <= 0:
            self._end(UnreachableError(f"agent {self._address} is silent", source="agent"))
        else:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._look)

    def _end(self, error: SllmError) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


class EventFeed:
    """Follows the event stream of the agent at `address` (`http[s]://host:port`)."""

    def __init__(self, address: str, secret: str, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(address)
        self._address = address
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._tls = tls
        self._head = (
            f" HTTP/1.1\r\nhost: {parts.netloc}\r\n{SECRET_HEADER}: {secret}\r\n{WIRE_HEADER}: {WIRE_VERSION}\r\n\r\n"
        ).encode()

    async def follow(self, from_seq: int | None, take: Take) -> SllmError:
        """Give each event to `take`, from a snapshot or from what came after `from_seq`, until cancelled.

        Returns why the stream ended: UnreachableError, CertificateError, WireError, what the agent refused with, and
        what `take` raised, if it is an SllmError.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, feed = await loop.create_connection(
                    lambda: _Feed(self._address, take), self._host, self._port, ssl=self._tls
                )
        except OSError as error:  # TimeoutError is one, and so are TLS errors
            reason = error.strerror or type(error).__name__
            return certificate_error(error, self._address) or UnreachableError(
                f"agent {self._address} cannot be reached: {reason}", source="agent"
            )
        query = b"" if from_seq is None else b"?from=%d" % from_seq
        try:
            feed.send(b"GET /events" + query + self._head)
            return await feed.ended
        finally:
            feed.close()
