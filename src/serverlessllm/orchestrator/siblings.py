# SPDX-License-Identifier: Apache-2.0
"""The other workers of the same front: what is asked of one of them is answered for all.

Each worker serves its own metrics and requests on a private unix socket; the one that a client
happens to reach asks the others. A worker that does not answer is left out. Knows not how workers start.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from serverlessllm.errors import NotFoundError
from serverlessllm.sdk.request import segment
from serverlessllm.telemetry.merge import merge_metrics
from serverlessllm.wire.admin import RequestDetail, RequestList, RequestView

if TYPE_CHECKING:
    from serverlessllm.orchestrator.orchestrator import Orchestrator

PATIENCE_S: Final = 2.0
T = TypeVar("T")


class Siblings:
    """Worker `index` of `num_workers`; sockets are in `directory`."""

    def __init__(self, directory: Path, index: int, num_workers: int) -> None:
        self.index = index
        self._directory = directory
        self._others = [number for number in range(num_workers) if number != index]
        self._runner: web.AppRunner | None = None
        self._sessions: list[aiohttp.ClientSession] = []

    async def start(self, orchestrator: Orchestrator) -> None:
        """Answer the others from now on."""
        app = web.Application()

        async def metrics(request: web.Request) -> web.Response:
            return web.Response(body=orchestrator.render_metrics())

        async def listed(request: web.Request) -> web.Response:
            views = orchestrator.views.requests(int(request.query["limit"]))
            return web.Response(body=msgspec.json.encode(RequestList(requests=views)))

        async def detail(request: web.Request) -> web.Response:
            try:
                body = msgspec.json.encode(orchestrator.views.request(request.match_info["id"]))
            except NotFoundError:
                return web.Response(status=404)
            return web.Response(body=body)

        app.router.add_get("/metrics", metrics)
        app.router.add_get("/requests", listed)
        app.router.add_get("/requests/{id}", detail)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        path = self._path(self.index)
        path.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(path)).start()
        path.chmod(0o600)
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        self._sessions = [
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._path(other))), timeout=timeout)
            for other in self._others
        ]

    async def stop(self) -> None:
        """Answer no longer."""
        for session in self._sessions:
            await session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def metrics(self, ours: bytes) -> bytes:
        """`ours` and the others', as those of one process."""
        return merge_metrics([ours, *await self._ask("/metrics")])

    async def request(self, request_id: str) -> RequestDetail | None:
        """What another worker knows of the request; None if none does."""
        found = await self._ask(f"/requests/{segment(request_id)}")
        return msgspec.json.decode(found[0], type=RequestDetail) if found else None

    async def requests(self, ours: list[RequestView], limit: int) -> list[RequestView]:
        """The newest of all workers' requests first."""
        lists = [
            msgspec.json.decode(body, type=RequestList).requests
            for body in await self._ask(f"/requests?limit={limit}")
        ]
        every = sum(lists, ours)
        return sorted(every, key=lambda view: view.arrived_s, reverse=True)[:limit]

    async def _ask(self, path: str) -> list[bytes]:
        """The bodies of those that answer 200."""
        bodies = await asyncio.gather(*(self._get(session, path) for session in self._sessions))
        return [body for body in bodies if body is not None]

    @staticmethod
    async def _get(session: aiohttp.ClientSession, path: str) -> bytes | None:
        try:
            async with session.get(f"http://worker{path}") as response:
                return await response.read() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    def _path(self, index: int) -> Path:
        return self._directory / f"worker-{index}.sock"
