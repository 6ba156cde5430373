# SPDX-License-Identifier: Apache-2.0
"""Hundreds of agents from one cheap process: only their event streams.

`python -m benchmarks.agents.swarm COUNT PORT DELTAS_PER_S`. Agent *n* is at `address(n, PORT)`, a loopback address of
its own. Each tells of one ready replica, then of DELTAS_PER_S changes of its cache and one heartbeat a second.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import cast

import httptools
import msgspec
import uvloop

from serverlessllm.wire import WIRE_VERSION, sse
from serverlessllm.wire.agent import AgentStatus, ReplicaStatus
from serverlessllm.wire.events import AgentEvent, Heartbeat, KvChanged, Snapshot

REVISION = "0123456789abcdef0123456789abcdef"
MODEL = "bench"
CHUNKS_PER_DELTA = 4
KEPT_CHUNKS = 4000
"""After so many chunks each delta withdraws as many as it tells of."""


def address(number: int, port: int) -> str:
    """Where agent `number` is."""
    return f"http://127.1.{number // 250}.{number % 250 + 1}:{port}"


class _Agent(asyncio.Protocol):
    """One event stream."""

    def __init__(self, deltas_per_s: int) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._gap_s = 1.0 / deltas_per_s
        self._deltas_per_s = deltas_per_s
        self._seq = 0
        self._names: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """An orchestrator follows."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It follows no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Only `/events` is ever asked for."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """The snapshot, then what changes."""
        name = str(self._transport.get_extra_info("sockname")[0])
        replica = ReplicaStatus(MODEL, REVISION, 1, "ready", "torch", "cpu", 1, 0, 0, 0.0)
        status = AgentStatus(
            name, "boot", WIRE_VERSION, ["torch"], 1 << 30, 0, "/dev/shm", [replica], [], [], [], {}
        )
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        self._tell(Snapshot(status))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(random.uniform(0, self._gap_s), self._next, loop.time() + self._gap_s)

    def _next(self, due_s: float) -> None:
        stored = [random.getrandbits(63) for _ in range(CHUNKS_PER_DELTA)]
        self._names += stored
        removed: list[int] = []
        if len(self._names) > KEPT_CHUNKS:
            removed, self._names = self._names[:CHUNKS_PER_DELTA], self._names[CHUNKS_PER_DELTA:]
        self._tell(KvChanged(MODEL, REVISION, stored, removed))
        if self._seq % (self._deltas_per_s + 1) == self._deltas_per_s:
            self._tell(Heartbeat("boot"))
        due_s += self._gap_s
        self._timer = asyncio.get_running_loop().call_at(due_s, self._next, due_s)

    def _tell(self, event: AgentEvent) -> None:
        self._seq += 1
        data = sse.event(self._seq, msgspec.json.encode(event))
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))


async def _serve(count: int, port: int, deltas_per_s: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Agent(deltas_per_s), "0.0.0.0", port, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(*map(int, sys.argv[1:4])))
