# SPDX-License-Identifier: Apache-2.0
"""The ingest service's HTTP: start jobs, follow them, end them.

    POST   /ingest             {"source": "hf://org/name", "dtype": null, "publish": null, …}  → 202, the job
    POST   /convert            the same, for a local path alone                             → 202, the job
    GET    /jobs/{id}                                                                       → 200, the job
    GET    /jobs/{id}/events   → 200, an event stream of the job at each change, `data: [DONE]` after the last
    DELETE /jobs/{id}          → 200, the job, cancelled unless it had ended
    GET    /healthz            → 200, without credentials

Every other call needs the cluster secret, or a node's or admin's API key where the service has keys. Errors have
OpenAI's shape. Knows no format; `jobs.py` runs the work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.errors import (
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    PayloadTooLargeError,
    SllmError,
    UnsupportedMediaTypeError,
)
from serverlessllm.ingest.gate import Gate
from serverlessllm.ingest.job_store import JobStore
from serverlessllm.ingest.jobs import Jobs
from serverlessllm.ingest.request_check import check_request
from serverlessllm.ingest.workplace import Workplace
from serverlessllm.wire import sse
from serverlessllm.wire.ingest import IngestRequest, Job, decode_request

MAX_BODY_BYTES: Final = 64 << 10
KEEP_ALIVE_S: Final = 15.0
"""A stream on which nothing happened for so long gets a comment: proxies close silent connections."""
_JOBS: Final = web.AppKey("jobs", Jobs)


def create_app(workplace: Workplace, gate: Gate, clock: Clock | None = None) -> web.Application:
    """The service as an aiohttp application; its cleanup ends running children, its next start takes their jobs up.

    Its start raises ConflictError when another service has the directory.
    """

    async def jobs(app: web.Application) -> AsyncIterator[None]:
        store = JobStore(workplace.ingest)
        app[_JOBS] = Jobs(store, workplace, workplace.config.ingest.max_jobs, clock or SystemClock())
        await app[_JOBS].start()
        yield
        await app[_JOBS].close()

    app = web.Application(middlewares=[_errors, _guard(gate)], client_max_size=MAX_BODY_BYTES)
    app.cleanup_ctx.append(jobs)
    app.router.add_post("/ingest", _ingest)
    app.router.add_post("/convert", _convert)
    app.router.add_get("/jobs/{id}", _get_job)
    app.router.add_delete("/jobs/{id}", _cancel_job)
    app.router.add_get("/jobs/{id}/events", _job_events)
    app.router.add_get("/healthz", _healthz)
    return app


async def _ingest(request: web.Request) -> web.Response:
    return await _submit(request, await _read_request(request))


async def _convert(request: web.Request) -> web.Response:
    wanted = await _read_request(request)
    if not wanted.source.startswith("/"):
        raise InvalidRequestError(
            "source: /convert takes an absolute local path; see /ingest", param="source"
        )
    return await _submit(request, wanted)


async def _read_request(request: web.Request) -> IngestRequest:
    if request.content_type != "application/json":
        raise UnsupportedMediaTypeError("Content-Type: expected application/json", param="Content-Type")
    return decode_request(await request.read())


async def _submit(request: web.Request, wanted: IngestRequest) -> web.Response:
    check_request(wanted)
    return _job_response(await request.app[_JOBS].submit(wanted), status=202)


async def _get_job(request: web.Request) -> web.Response:
    return _job_response(request.app[_JOBS].get(request.match_info["id"]))


async def _cancel_job(request: web.Request) -> web.Response:
    return _job_response(await request.app[_JOBS].cancel(request.match_info["id"]))


async def _job_events(request: web.Request) -> web.StreamResponse:
    """A reader that is slow misses states between, never the last one."""
    jobs = request.app[_JOBS]
    job = jobs.get(request.match_info["id"])
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    seq = 1
    await response.write(sse.event(seq, msgspec.json.encode(job)))
    while not job.is_finished:
        now = await jobs.changed(job, KEEP_ALIVE_S)
        if now is job:
            await response.write(sse.comment("keep-alive"))
            continue
        seq, job = seq + 1, now
        await response.write(sse.event(seq, msgspec.json.encode(job)))
    await response.write(sse.DONE)
    return response


async def _healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def _job_response(job: Job, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(job), content_type="application/json", status=status)


def _guard(gate: Gate) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != "/healthz":
            await gate.check(request.headers)
        return await handler(request)

    return guard


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure as OpenAI's error shape."""
    try:
        return await handler(request)
    except SllmError as error:
        return _error_response(error)
    except web.HTTPException as error:
        return _error_response(_translate(error, request))


def _translate(error: web.HTTPException, request: web.Request) -> SllmError:
    if isinstance(error, web.HTTPNotFound):
        return NotFoundError(f"no such path: {request.path[:200]}")
    if isinstance(error, web.HTTPMethodNotAllowed):
        return MethodNotAllowedError(f"{request.method} is not allowed on {request.path[:200]}")
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return PayloadTooLargeError(f"body: larger than {MAX_BODY_BYTES} bytes", param="body")
    return InvalidRequestError(error.reason)


def _error_response(error: SllmError) -> web.Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return web.json_response(error.as_openai(), status=error.http_status, headers=headers)
