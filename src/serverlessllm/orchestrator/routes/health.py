# SPDX-License-Identifier: Apache-2.0
"""`/healthz`, `/readyz`, `/metrics` and `/openapi.json`: what machines ask about this process."""

from __future__ import annotations

from functools import cache

import msgspec
from aiohttp import web

from serverlessllm.errors import NoAgentError, ShuttingDownError
from serverlessllm.orchestrator.app_key import ORCHESTRATOR
from serverlessllm.orchestrator.openapi import document
from serverlessllm.orchestrator.replies import json_reply
from serverlessllm.telemetry.metrics import CONTENT_TYPE


def add_routes(router: web.UrlDispatcher) -> None:
    """Add every route of this file."""
    router.add_get("/healthz", healthz)
    router.add_get("/readyz", readyz)
    router.add_get("/metrics", metrics)
    router.add_get("/openapi.json", openapi)


async def healthz(request: web.Request) -> web.Response:
    """`GET /healthz`: the process answers."""
    return json_reply({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: 200 once an agent is alive, else 503; 503 too from the moment the process was told to stop."""
    if request.app[ORCHESTRATOR].is_stopping:
        raise ShuttingDownError("this server is stopping")
    if not request.app[ORCHESTRATOR].agents.alive():
        raise NoAgentError("no agent is alive yet")
    return json_reply({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: Prometheus' text format; of all workers, if there are several."""
    orchestrator = request.app[ORCHESTRATOR]
    body = orchestrator.render_metrics()
    if orchestrator.siblings is not None:
        body = await orchestrator.siblings.metrics(body)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


async def openapi(request: web.Request) -> web.Response:
    """`GET /openapi.json`."""
    return web.Response(body=_document(), content_type="application/json")


@cache
def _document() -> bytes:
    return msgspec.json.encode(document())
