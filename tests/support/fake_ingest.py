# SPDX-License-Identifier: Apache-2.0
"""A double of the ingest service's border: a real HTTP server whose jobs a test moves by hand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from serverlessllm.app.http_server import HttpServer, listen, start_http
from serverlessllm.errors import InvalidRequestError, NotFoundError, SllmError
from serverlessllm.wire import sse
from serverlessllm.wire.ingest import IngestRequest, Job, decode_request


@dataclass
class FakeIngest:
    """`jobs` by id; `forget` is what a restart of the service does."""

    jobs: dict[str, Job] = field(default_factory=dict)
    requests: list[IngestRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    _server: HttpServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return self._server.url

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/ingest", self._ingest)
        app.router.add_get("/jobs/{id}", self._job)
        app.router.add_delete("/jobs/{id}", self._cancel)
        app.router.add_get("/jobs/{id}/events", self._events)
        self._server = await start_http(app, listen("127.0.0.1", 0, key="port"))

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()

    def move(self, **fields: object) -> None:
        """Change every job."""
        self.jobs = {key: msgspec.structs.replace(job, **fields) for key, job in self.jobs.items()}

    def forget(self) -> None:
        """Know no job any more."""
        self.jobs.clear()

    async def _ingest(self, request: web.Request) -> web.Response:
        try:
            wanted = decode_request(await request.read())
        except InvalidRequestError as error:
            return _reply(error.as_openai(), error.http_status)
        self.requests.append(wanted)
        job = Job(id=f"job-{len(self.requests)}", state="running", source=wanted.source, dtype=wanted.dtype)
        self.jobs[job.id] = job
        return _reply(job, 202)

    async def _job(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            error: SllmError = NotFoundError("no such job", source="ingest")
            return _reply(error.as_openai(), 404)
        return _reply(job)

    async def _cancel(self, request: web.Request) -> web.Response:
        job_id = request.match_info["id"]
        self.cancelled.append(job_id)
        self.jobs[job_id] = msgspec.structs.replace(self.jobs[job_id], state="cancelled")
        return _reply(self.jobs[job_id])

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        seen: Job | None = None
        while seen is None or not seen.is_finished:
            job = self.jobs[request.match_info["id"]]
            if job is not seen:
                await response.write(sse.event(1, msgspec.json.encode(job)))
            seen = job
            await asyncio.sleep(0.005)
        await response.write(sse.DONE)
        return response


def _reply(body: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
