# SPDX-License-Identifier: Apache-2.0
"""`/v1`: the OpenAI API."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.admission import read_body
from serverlessllm.orchestrator.app_key import ORCHESTRATOR
from serverlessllm.orchestrator.replies import json_reply
from serverlessllm.wire.openai import Endpoint
from serverlessllm.wire.trace_context import TRACEPARENT

OWNER: Final = "serverlessllm"
CALLABLE: Final = ("ready", "remote")


def add_routes(router: web.UrlDispatcher) -> None:
    """Add every route of this file."""
    router.add_get("/v1/models", list_models)
    router.add_get("/v1/models/{name:.+}", get_model)
    router.add_post("/v1/chat/completions", chat_completions)
    router.add_post("/v1/completions", completions)
    router.add_post("/v1/embeddings", embeddings)


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/chat/completions`."""
    return await _serve(request, "chat")


async def completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/completions`."""
    return await _serve(request, "completions")


async def embeddings(request: web.Request) -> web.StreamResponse:
    """`POST /v1/embeddings`."""
    return await _serve(request, "embeddings")


async def _serve(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
    orchestrator, body = request.app[ORCHESTRATOR], await read_body(request)
    orchestrator.traces.begin(request.headers.get(TRACEPARENT), body)
    return await orchestrator.proxy.serve(request, body, endpoint)


async def list_models(request: web.Request) -> web.Response:
    """`GET /v1/models`: what may be called, asleep or not."""
    records = request.app[ORCHESTRATOR].models.all()
    callable_now = [_model(record) for record in records if record.state in CALLABLE]
    return json_reply({"object": "list", "data": callable_now})


async def get_model(request: web.Request) -> web.Response:
    """`GET /v1/models/{name}`; the name may contain slashes."""
    return json_reply(_model(request.app[ORCHESTRATOR].models.get(request.match_info["name"])))


def _model(record: ModelRecord) -> dict[str, object]:
    return {"id": record.name, "object": "model", "created": int(record.created_at_s), "owned_by": OWNER}
