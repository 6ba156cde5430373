# SPDX-License-Identifier: Apache-2.0
"""A proxy in front of one agent that counts its requests, and answers them with 500 while it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from serverlessllm.app.http_server import listen, start_http

_HOP_BY_HOP: Final = ("transfer-encoding", "connection", "content-length", "host")


class FailingProxy:
    """Everything but a failing `/infer` goes through as it is, streams too.

    `num_requests` of `/infer` came so far, `num_open` are being answered, in `num_blocks` of bytes so far.
    """

    def __init__(self, target_port: int, session: aiohttp.ClientSession) -> None:
        self._target = f"http://127.0.0.1:{target_port}"
        self._session = session
        self.url = ""
        self.fails = False
        self.num_requests = 0
        self.num_open = 0
        self.num_blocks = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        is_infer = request.method == "POST" and request.path == "/infer"
        self.num_requests += is_infer
        if is_infer and self.fails:
            return web.Response(status=500, text="out of order")
        self.num_open += is_infer
        try:
            return await self._forward(request)
        finally:
            self.num_open -= is_infer

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        url, body = f"{self._target}{request.path_qs}", await request.read()
        response: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method, url, data=body, headers=_own(request.headers)
            ) as answer:
                response = web.StreamResponse(status=answer.status, headers=_own(answer.headers))
                await response.prepare(request)
                async for data in answer.content.iter_any():
                    await response.write(data)
                    self.num_blocks += request.path == "/infer"
                return response
        except aiohttp.ClientError:
            if request.transport is not None:
                request.transport.abort()  # as the agent's own connection ended
            return response or web.Response(status=502)


def _own(headers: CIMultiDict[str] | aiohttp.typedefs.LooseHeaders) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    for name in _HOP_BY_HOP:
        kept.popall(name, None)
    return kept


@asynccontextmanager
async def failing_proxy(target_port: int) -> AsyncIterator[FailingProxy]:
    """Serve one on a free port."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=timeout, auto_decompress=False
    ) as session:
        proxy = FailingProxy(target_port, session)
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        server = await start_http(app, listen("127.0.0.1", 0, key="proxy.port"))
        proxy.url = server.url
        try:
            yield proxy
        finally:
            await server.stop()
