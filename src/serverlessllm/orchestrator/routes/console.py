# SPDX-License-Identifier: Apache-2.0
"""`/` and `/console/*`: the web console's files. `/admin/events`: what it draws, as it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web

from serverlessllm.orchestrator.app_key import ORCHESTRATOR
from serverlessllm.orchestrator.console import Asset, assets
from serverlessllm.wire import sse

EVERY_S: Final = 1.0
MIN_GAP_S: Final = 0.2
"""Changes come in bursts; a person sees five pictures a second."""


def add_routes(router: web.UrlDispatcher) -> None:
    """Add every route of this file: one per asset, so that no path is ever joined from a request."""
    for path, asset in assets().items():
        router.add_get(path, _serve(asset))
    router.add_get("/admin/events", events, allow_head=False)


def _serve(asset: Asset) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == asset.etag:
            return web.Response(status=304, headers=asset.headers())
        return web.Response(body=asset.body, headers=asset.headers())

    return serve


async def events(request: web.Request) -> web.StreamResponse:
    """`GET /admin/events`: a `ConsoleSnapshot` at once, on change and each second, until the client leaves."""
    orchestrator = request.app[ORCHESTRATOR]
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    seq = 0
    while True:
        seq += 1
        await response.write(sse.event(seq, msgspec.json.encode(orchestrator.views.console())))
        await asyncio.sleep(MIN_GAP_S)
        await orchestrator.changes.wait(EVERY_S - MIN_GAP_S)
