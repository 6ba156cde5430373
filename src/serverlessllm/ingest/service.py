# SPDX-License-Identifier: Apache-2.0
"""The ingest service's HTTP: start a conversion, ask how far it is.

    POST /ingest, /convert   {"source": "/abs/path", "dtype": null}  → 202, the job
    GET  /jobs/{id}                                                  → 200, the job
    GET  /healthz                                                    → 200, without the secret

Every other call needs the cluster secret. Errors have OpenAI's shape. Knows no format; `jobs.py` runs the work.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from serverlessllm.config import IngestConfig
from serverlessllm.errors import (
    AuthenticationError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    PayloadTooLargeError,
    SllmError,
    UnsupportedMediaTypeError,
)
from serverlessllm.ingest.jobs import Jobs
from serverlessllm.wire.ingest import SECRET_HEADER, Job, decode_request

MAX_BODY_BYTES: Final = 64 << 10
_JOBS: Final = web.AppKey("jobs", Jobs)


def create_app(config: IngestConfig, artifacts_dir: Path, secret: str) -> web.Application:
    """The service as an aiohttp application; its cleanup ends running conversions.

    Raises: ValueError for an empty secret, which would let everyone in.
    """
    if not secret:
        raise ValueError("the ingest service needs a cluster secret")

    async def jobs(app: web.Application) -> AsyncIterator[None]:
        app[_JOBS] = Jobs(artifacts_dir, config.max_jobs)
        yield
        await app[_JOBS].close()

    app = web.Application(middlewares=[_errors, _guard(secret)], client_max_size=MAX_BODY_BYTES)
    app.cleanup_ctx.append(jobs)
    app.router.add_post("/ingest", _submit)
    app.router.add_post("/convert", _submit)
    app.router.add_get("/jobs/{id}", _get_job)
    app.router.add_get("/healthz", _healthz)
    return app


async def _submit(request: web.Request) -> web.Response:
    if request.content_type != "application/json":
        raise UnsupportedMediaTypeError("Content-Type: expected application/json", param="Content-Type")
    body = decode_request(await request.read())
    return _job_response(request.app[_JOBS].submit(body), status=202)


async def _get_job(request: web.Request) -> web.Response:
    return _job_response(request.app[_JOBS].get(request.match_info["id"]), status=200)


async def _healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def _job_response(job: Job, *, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(job), content_type="application/json", status=status)


def _guard(secret: str) -> Middleware:
    expected = secret.encode()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(SECRET_HEADER, "").encode("utf-8", "surrogateescape")
        if request.path != "/healthz" and not hmac.compare_digest(given, expected):
            raise AuthenticationError(f"{SECRET_HEADER}: missing or wrong", param=SECRET_HEADER)
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
