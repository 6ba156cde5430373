# SPDX-License-Identifier: Apache-2.0
"""One aiohttp application on one listening socket."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from aiohttp import web

from serverlessllm.errors import ConfigError

BACKLOG = 4096
"""aiohttp's default of 128 was measured to cost a second of TTFT at 512 connections."""
MAX_HEADER_BYTES = 32 << 10


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A running listener; `url` has the port that was taken."""

    url: str
    port: int
    runner: web.AppRunner

    async def stop(self) -> None:
        """Stop listening, let handlers see their cancellation, close."""
        await self.runner.cleanup()


def listen(host: str, port: int, *, key: str) -> socket.socket:
    """Bind `host:port` (0 = a free one). Raises ConfigError naming `key` if that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another port, 0 takes a free one",
            param=key,
        ) from error
    sock.listen(BACKLOG)
    return sock


async def start_http(
    app: web.Application, sock: socket.socket, tls: ssl.SSLContext | None = None
) -> HttpServer:
    """Serve `app` on a bound socket, over TLS if `tls` is given. A client that leaves cancels its handler."""
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=2.0,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
    await runner.setup()
    await web.SockSite(runner, sock, backlog=BACKLOG, ssl_context=tls).start()
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    scheme = "http" if tls is None else "https"
    return HttpServer(url=f"{scheme}://{shown}:{port}", port=port, runner=runner)
