# SPDX-License-Identifier: Apache-2.0
"""The fixed backend of the benchmark: answers chats at once or in time with a clock, for little CPU.

`python -m benchmarks.proxy.stub PORT`. It is an OpenAI server (`/v1/chat/completions`) to other proxies, and an agent
of ours with one ready replica (`/events`, `/infer`). `max_tokens` chunks are sent, `user` milliseconds apart; each
chunk's text is the time of its sending (monotonic, ns).
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final, cast

import httptools
import msgspec
import uvloop

from serverlessllm.wire import WIRE_VERSION, sse
from serverlessllm.wire.agent import AgentStatus, InferTiming, ReplicaStatus
from serverlessllm.wire.events import Heartbeat, Snapshot

MODEL: Final = "bench"
REVISION: Final = "0123456789abcdef0123456789abcdef"
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b"
_CHUNK: Final = (
    b'{"id":"chatcmpl-0123456789","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":"%d"},"logprobs":null,"finish_reason":%b%b}]}'
)
_TIMING: Final = b"x-sllm-timing: %b\r\n" % msgspec.json.encode(InferTiming(0.1, 0.2, 8))
_WHOLE: Final = (
    b'{"id":"chatcmpl-0123456789","object":"chat.completion","created":1700000000,"model":"bench","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%d"},"finish_reason":"stop"}],"usage":{"prompt_tokens":8,'
    b'"completion_tokens":1,"total_tokens":9}}'
)


class _Body(msgspec.Struct):
    """Some proxies send the newer name of the limit."""

    max_tokens: int = 0
    max_completion_tokens: int = 0
    user: str = "0"
    stream: bool = False


_bodies: Final = msgspec.json.Decoder(_Body)


def snapshot() -> Snapshot:
    """An agent with one ready replica of MODEL."""
    replica = ReplicaStatus(MODEL, REVISION, 1, "ready", "torch", "cpu", 1, 0, 0, 0.0)
    return Snapshot(
        AgentStatus(
            "stub", "boot", WIRE_VERSION, ["torch"], 1 << 30, 0, "/dev/shm", [replica], [], [], [], {}
        )
    )


class Stub(asyncio.Protocol):
    """One connection; one answer at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._body: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Its stream ends too."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; who tries another protocol first is sent away."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def on_url(self, url: bytes) -> None:
        """The path."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        path, self._url = self._url.split(b"?")[0], b""
        body, self._body = b"".join(self._body), []
        if path == b"/events":
            self._send(_HEAD % (b"text/event-stream", b"transfer-encoding: chunked\r\n\r\n"))
            self._tell(0, msgspec.json.encode(snapshot()))
        elif path in (b"/infer", b"/v1/chat/completions"):
            self._answer(_bodies.decode(body), is_agent=path == b"/infer")
        else:
            self._json(b'{"status":"ok","model_path":"bench","is_generation":true,"object":"list","data":[]}')

    def _answer(self, body: _Body, *, is_agent: bool) -> None:
        if not body.stream:
            self._json(_WHOLE % time.monotonic_ns(), _TIMING if is_agent else b"")
            return
        extra = (_TIMING if is_agent else b"") + b"transfer-encoding: chunked\r\n\r\n"
        head = _HEAD % (b"text/event-stream", extra)
        if is_agent:
            head += _framed(sse.PROMPT_COMMENT + b"0123abcd\n")
        self._send(head)
        self._next(
            1,
            body.max_tokens or body.max_completion_tokens,
            float(body.user) / 1e3,
            self._loop.time(),
            is_agent,
        )

    def _next(self, seq: int, count: int, gap_s: float, due_s: float, is_agent: bool) -> None:
        is_last = seq == count
        ids = b',"token_ids":[%d]' % seq if is_agent else b""
        payload = _CHUNK % (time.monotonic_ns(), b'"stop"' if is_last else b"null", ids)
        event = b"id: %d\ndata: %b\n\n" % (seq, payload) if is_agent else b"data: %b\n\n" % payload
        if is_last:
            self._send(_framed(event + sse.DONE) + b"0\r\n\r\n")
            return
        self._send(_framed(event))
        due_s += gap_s
        self._timer = self._loop.call_at(due_s, self._next, seq + 1, count, gap_s, due_s, is_agent)

    def _tell(self, seq: int, payload: bytes) -> None:
        """An agent's event, and a heartbeat each second from then on."""
        if self._transport is None:
            return
        self._send(_framed(sse.event(seq, payload)))
        beat = msgspec.json.encode(Heartbeat("boot"))
        self._timer = self._loop.call_later(1.0, self._tell, seq + 1, beat)

    def _json(self, body: bytes, extra: bytes = b"") -> None:
        self._send(_HEAD % (b"application/json", extra + b"content-length: %d\r\n\r\n" % len(body)) + body)

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
