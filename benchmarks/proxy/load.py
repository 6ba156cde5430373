# SPDX-License-Identifier: Apache-2.0
"""The benchmark's client: many chats over kept connections, for little CPU; when each chunk came, and how late.

A chunk's text says when the backend sent it (monotonic, ns), so its latency needs no second clock. What arrives is
acknowledged at once (TCP_QUICKACK): a proxy that leaves Nagle's algorithm on would otherwise send a few large packets
late, for little CPU, and its figures would be those of another task.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec

from benchmarks.proxy.stub import MODEL

_SENT: Final = re.compile(rb'"content": ?"(\d{6,})"')
PATIENCE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where a subject is called. `key`: its API key, empty without."""

    url: str
    key: str = ""

    def request(self, *, num_chunks: int, gap_ms: int) -> bytes:
        """The bytes of one streamed chat."""
        body = msgspec.json.encode(
            {
                "model": MODEL,
                "messages": [
                    {"role": "system", "content": "You are a helpful assistant."},
                    {"role": "user", "content": "Tell me of the sea, and what lies beyond it. " * 4},
                ],
                "max_tokens": num_chunks,
                "user": str(gap_ms),
                "stream": True,
            }
        )
        auth = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {urlsplit(self.url).netloc}\r\n{auth}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass
class Seen:
    """What a client saw. Latencies in µs: of first chunks after the request, of chunks after their sending."""

    ttft_us: list[float] = field(default_factory=list)
    late_us: list[float] = field(default_factory=list)
    num_chunks: int = 0
    num_requests: int = 0
    wall_s: float = 0.0


class _Client(asyncio.Protocol):
    """One connection that sends the same request `count` times, one after the other."""

    def __init__(self, request: bytes, count: int, seen: Seen) -> None:
        self._request = request
        self._left = count
        self._seen = seen
        self._tail = b""
        self._sent_ns = 0
        self._is_first = True
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer that did not come is a failure of the run."""
        if not self.done.done():
            self.done.set_exception(ConnectionError("the subject closed a connection in mid-answer"))

    def data_received(self, data: bytes) -> None:
        """Note what came; send the next request after the last chunk."""
        now_ns = time.monotonic_ns()
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if self._tail:
            data = self._tail + data
        end = 0
        for match in _SENT.finditer(data):
            self._seen.late_us.append((now_ns - int(match[1])) / 1e3)
            self._seen.num_chunks += 1
            end = match.end()
            if self._is_first:
                self._is_first = False
                self._seen.ttft_us.append((now_ns - self._sent_ns) / 1e3)
        self._tail = data[max(end, len(data) - 200) :]
        if self._tail.endswith(b"0\r\n\r\n") and b"[DONE]" in self._tail:
            self._finish()
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200") and not self.done.done():
            self.done.set_exception(ConnectionError(f"the subject answered {data[:300]!r}"))

    def _finish(self) -> None:
        self._seen.num_requests += 1
        self._left -= 1
        if self._left:
            self._send()
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def _send(self) -> None:
        self._tail, self._is_first = b"", True
        self._sent_ns = time.monotonic_ns()
        self._transport.write(self._request)


async def drive(
    target: Target, *, num_connections: int, requests_each: int, num_chunks: int, gap_ms: int
) -> Seen:
    """Run them all. Raises ConnectionError when an answer fails, TimeoutError when one does not end."""
    seen = Seen()
    loop = asyncio.get_running_loop()
    parts = urlsplit(target.url)
    request = target.request(num_chunks=num_chunks, gap_ms=gap_ms)
    began_s = time.monotonic()
    clients: list[_Client] = []
    for number in range(num_connections):
        _, client = await loop.create_connection(
            lambda: _Client(request, requests_each, seen), parts.hostname or "", parts.port or 80
        )
        clients.append(client)
        if number % 32 == 31:
            await asyncio.sleep(0.02)  # streams begin spread over a gap, not at one moment
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(client.done for client in clients))
    seen.wall_s = time.monotonic() - began_s
    return seen
