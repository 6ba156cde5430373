# SPDX-License-Identifier: Apache-2.0
"""A TCP link to an agent that fails where a test says: it knows the first line of each request, and nothing else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["cut_before", "cut_after", "hang"]
"""Hang up instead of passing the request on; pass it on and hang up instead of its answer; take it, say nothing."""

STEPS = {
    "open": rb"PUT /standby/[^/ ]+ ",
    "round": rb"PATCH /standby/[^/ ]+ ",
    "blocks": rb"POST /standby/[^/ ]+/blocks ",
    "go": rb"POST /standby/[^/ ]+/go ",
    "abort": rb"DELETE /standby/[^/ ]+ ",
    "attach": rb"GET /infer/",
}


class FaultyLink:
    """`faults`: step → what happens to its next requests. `on_step` is called before a step is passed on."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 0)
        self.url = ""
        self.faults: dict[str, list[Fault]] = {}
        self.steps: list[str] = []
        self.on_step: Callable[[str], Awaitable[None]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection came."""
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, OSError):
                await self._serve_upstream(reader, writer)
        finally:
            await _close(writer)

    async def _serve_upstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection(*self._target)
        back = asyncio.create_task(_pump(upstream_reader, writer))
        try:
            await self._forward(reader, writer, upstream, back)
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            await _close(upstream)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: asyncio.StreamWriter,
        back: asyncio.Task[None],
    ) -> None:
        while data := await reader.read(1 << 20):
            step = next((name for name, line in STEPS.items() if re.match(line, data)), None)
            if step is not None:
                self.steps.append(step)
                if self.on_step is not None:
                    await self.on_step(step)
                fault = self.faults[step].pop(0) if self.faults.get(step) else None
                if fault == "cut_before":
                    writer.transport.abort()
                    return
                if fault == "hang":
                    while await reader.read(1 << 20):
                        pass
                    return
                if fault == "cut_after":
                    back.cancel()
                    upstream.write(data)
                    await self._rest(reader, upstream)
                    writer.transport.abort()
                    return
            upstream.write(data)
            await upstream.drain()

    async def _rest(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        """Headers and body may come apart: pass on what comes within a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                while data := await reader.read(1 << 20):
                    upstream.write(data)

    async def stop(self) -> None:
        """Hang up on all."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError, OSError):
        await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, OSError):
        while data := await reader.read(1 << 20):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@asynccontextmanager
async def faulty_link(url: str) -> AsyncIterator[FaultyLink]:
    """A link to `url`, listening on a free port."""
    link = FaultyLink(url)
    server = await asyncio.start_server(link.connected, "127.0.0.1", 0)
    link.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        server.close()
        await link.stop()
