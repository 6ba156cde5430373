# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP surface. Each handler: decode, call the agent, encode.

Every call but `/metrics` and `/healthz` needs the cluster secret. Errors have OpenAI's shape. The reserved paths
(`/snapshot /restore /shards/…`) are 404 like any other that is not built.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from serverlessllm.agent.agent import Agent
from serverlessllm.agent.standby_api import add_routes as add_move_routes
from serverlessllm.agent.stream import answer_embeddings, answer_stream, answer_whole
from serverlessllm.errors import (
    AuthenticationError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    PayloadTooLargeError,
    SllmError,
    WireVersionError,
)
from serverlessllm.telemetry import metrics
from serverlessllm.wire import is_compatible, refusal, trace_context
from serverlessllm.wire.agent import SECRET_HEADER, WIRE_HEADER, InferHeaders, LoadRequest, UnloadRequest
from serverlessllm.wire.disk import CleanNode
from serverlessllm.wire.openai import field_error
from serverlessllm.wire.resume import CONTENT_TYPE as RESUME_CONTENT_TYPE
from serverlessllm.wire.resume import MAX_HEAD_BYTES, decode_resume
from serverlessllm.wire.run_name import CancelResult, RunName

AGENT: Final = web.AppKey("agent", Agent)
OPEN_PATHS: Final = ("/metrics", "/healthz")
CLIENT_LEFT_STATUS: Final = 499

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")

_log = logging.getLogger(__name__)


def create_app(agent: Agent) -> web.Application:
    """The application of a started agent. Serve it with `handler_cancellation`, or clients cannot cancel."""
    max_body_bytes = agent.config.orchestrator.max_body_bytes
    app = web.Application(middlewares=[_errors, _secret], client_max_size=max_body_bytes)
    app[AGENT] = agent
    app.router.add_post("/load", _load)
    app.router.add_post("/unload", _unload)
    app.router.add_post("/infer", _infer)
    app.router.add_get("/infer/{request_id}", _attach, allow_head=False)
    app.router.add_delete("/infer/{request_id}", _cancel)
    add_move_routes(app, lambda request: request.app[AGENT])
    app.router.add_get("/events", _events, allow_head=False)
    app.router.add_get("/status", _status)
    app.router.add_get("/disk", _disk)
    app.router.add_post("/disk/clean", _clean_disk)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/healthz", _healthz)
    app.on_shutdown.append(_end_events)
    return app


def error_response(error: SllmError) -> web.Response:
    """The error as its status and OpenAI-shaped body, with Retry-After where it says when."""
    response = _json(error.as_openai(), status=error.http_status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return response


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except SllmError as error:
        return error_response(error)
    except web.HTTPException as error:
        return error_response(_from_aiohttp(error, request))
    except ConnectionResetError:
        # The client left before its handler could be cancelled. Nobody reads this; it spares a traceback.
        return web.Response(status=CLIENT_LEFT_STATUS)
    except Exception:
        # A bug. It must cost one request and be seen, not end the node.
        _log.exception("%s %s failed", request.method, request.path)
        return error_response(SllmError(f"{request.path} failed; see the agent's log", source="agent"))


@web.middleware
async def _secret(request: web.Request, handler: Handler) -> web.StreamResponse:
    is_known = request.match_info.http_exception is None
    if is_known and request.path not in OPEN_PATHS:
        given = request.headers.get(SECRET_HEADER, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, request.app[AGENT].secret.encode()):
            raise AuthenticationError(f"header {SECRET_HEADER}: missing, or not this cluster's secret")
        _check_version(request.headers.get(WIRE_HEADER, ""))
    # Whatever the call starts works for the same trace.
    trace_context.enter(trace_context.parse(request.headers.get(trace_context.TRACEPARENT)))
    return await handler(request)


def _check_version(text: str) -> None:
    """Raises WireVersionError for a caller of a version that we do not understand; one that says none is old."""
    if text.isascii() and text.isdigit() and len(text) <= 9 and not is_compatible(int(text)):
        raise WireVersionError(f"{WIRE_HEADER}: who calls this agent: {refusal(int(text))}", source="agent")


async def _load(request: web.Request) -> web.Response:
    return _json(await request.app[AGENT].load(await _body(request, LoadRequest)))


async def _unload(request: web.Request) -> web.Response:
    return _json(await request.app[AGENT].unload(await _body(request, UnloadRequest)))


async def _infer(request: web.Request) -> web.StreamResponse:
    with request.app[AGENT].open_answers.one():
        return await _answer(request)


async def _answer(request: web.Request) -> web.StreamResponse:
    agent = request.app[AGENT]
    headers, resumed = InferHeaders.decode(request.headers), None
    if request.content_type == RESUME_CONTENT_TYPE:
        max_bytes = agent.config.orchestrator.max_body_bytes + MAX_HEAD_BYTES
        resumed, body = decode_resume(await request.clone(client_max_size=max_bytes).read())
    else:
        body = await request.read()
    if headers.endpoint == "embeddings":
        return await answer_embeddings(agent.embed(headers, body))
    inference = agent.infer(headers, body, resumed)
    if inference.request.is_stream:
        running = agent.answers.start(inference, lambda answer: agent.ended(inference, answer))
        async with agent.answers.reading(running):
            return await answer_stream(request, running, 0 if resumed is None else resumed.seq)
    try:
        return await answer_whole(inference)
    finally:
        agent.ended(inference, inference)


async def _attach(request: web.Request) -> web.StreamResponse:
    agent = request.app[AGENT]
    name = RunName.decode(request.match_info["request_id"], request.headers)
    await agent.standbys.live(name)
    running = agent.answers.find(name)
    async with agent.answers.reading(running):
        agent.migrations.reclaim(running)
        agent.standbys.claimed(running.headers)
        return await answer_stream(request, running, _from_seq(request.query.get("from")) or 0)


async def _cancel(request: web.Request) -> web.Response:
    name = RunName.decode(request.match_info["request_id"], request.headers)
    return _json(CancelResult(await request.app[AGENT].answers.cancel(name)))


async def _events(request: web.Request) -> web.StreamResponse:
    agent = request.app[AGENT]
    from_seq = _from_seq(request.query.get("from"))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    async with aclosing(agent.events.follow(from_seq, agent.snapshot)) as events:
        async for data in events:
            await response.write(data)
    return response


async def _end_events(app: web.Application) -> None:
    """Followers read until the end: without one, a clean stop would wait for them."""
    app[AGENT].events.close()


async def _status(request: web.Request) -> web.Response:
    return _json(request.app[AGENT].status())


async def _disk(request: web.Request) -> web.Response:
    return _json(await request.app[AGENT].disk.status())


async def _clean_disk(request: web.Request) -> web.Response:
    return _json(await request.app[AGENT].disk.clean(await _body(request, CleanNode)))


async def _metrics(request: web.Request) -> web.Response:
    body = await request.app[AGENT].render_metrics()
    return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})


async def _healthz(request: web.Request) -> web.Response:
    is_running = request.app[AGENT].is_running
    return _json({"status": "ok" if is_running else "stopping"}, status=200 if is_running else 503)


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error


def _from_seq(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise InvalidRequestError(f"from: {text[:40]!r} is not a sequence number", param="from")
    return int(text)


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _from_aiohttp(error: web.HTTPException, request: web.Request) -> SllmError:
    match error:
        case web.HTTPNotFound():
            return NotFoundError(f"no such path: {request.path[:100]}", source="agent")
        case web.HTTPMethodNotAllowed():
            return MethodNotAllowedError(f"{request.path} does not take {request.method}", source="agent")
        case web.HTTPRequestEntityTooLarge():
            return PayloadTooLargeError(
                f"the body exceeds {request.app[AGENT].config.orchestrator.max_body_bytes} bytes",
                source="agent",
            )
        case _:
            return InvalidRequestError(error.reason, source="agent")
