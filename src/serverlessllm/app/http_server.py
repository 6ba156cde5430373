# SPDX-License-Identifier: Apache-2.0
"""One aiohttp application on one listening socket."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from serverlessllm.errors import ConfigError

BACKLOG = 4096
"""aiohttp's default of 128 was measured to cost a second of TTFT at 512 connections."""
DEAD_PEER_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
)
"""Accepted sockets inherit these (Linux): a peer behind a cut network counts as gone after 20 to 25 s, so that its
streams become orphans, and its requests end. One that is only slow answers the kernel's probes and stays."""
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


def listen(host: str, port: int, *, key: str, shares_port: bool = False) -> socket.socket:
    """Listen on `host:port` (0 = a free one); `shares_port`: beside other sockets that do the same (SO_REUSEPORT).

    Raises ConfigError naming `key` if that is not possible.
    """
    sock = _bind(host, port, key=key, shares_port=shares_port)
    sock.listen(BACKLOG)
    return sock


def reserve(host: str, port: int, *, key: str) -> socket.socket:
    """Take `host:port` for sockets that will share it, without listening. Raises as `listen`."""
    if port:
        _bind(host, port, key=key, shares_port=False).close()  # nobody else's, who shares his port too
    return _bind(host, port, key=key, shares_port=True)


def address_url(sock: socket.socket, *, is_tls: bool) -> str:
    """The URL at which a bound socket is reached."""
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if is_tls else 'http'}://{shown}:{port}"


def _bind(host: str, port: int, *, key: str, shares_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for level, option, value in DEAD_PEER_OPTIONS:
        sock.setsockopt(level, option, value)
    if shares_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another port, 0 takes a free one",
            param=key,
        ) from error
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
    url = address_url(sock, is_tls=tls is not None)
    return HttpServer(url=url, port=int(sock.getsockname()[1]), runner=runner)
