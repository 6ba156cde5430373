# SPDX-License-Identifier: Apache-2.0
"""`/admin/models`: register, look at, stop and remove models."""

from __future__ import annotations

from aiohttp import web

from serverlessllm.orchestrator.admission import read_body
from serverlessllm.orchestrator.app_key import ORCHESTRATOR
from serverlessllm.orchestrator.replies import json_reply
from serverlessllm.wire.admin import Deleted, ModelList, Stopped, parse_add_model, parse_stop_model


def add_routes(router: web.UrlDispatcher) -> None:
    """Add every route of this file."""
    router.add_get("/admin/models", list_models)
    router.add_post("/admin/models", add_model)
    router.add_post("/admin/models/{name:.+}/stop", stop_model)
    router.add_get("/admin/models/{name:.+}", get_model)
    router.add_delete("/admin/models/{name:.+}", remove_model)


async def list_models(request: web.Request) -> web.Response:
    """`GET /admin/models`."""
    return json_reply(ModelList(models=request.app[ORCHESTRATOR].views.models()))


async def add_model(request: web.Request) -> web.Response:
    """`POST /admin/models`: answers at once; the registration goes on, follow it with GET."""
    orchestrator = request.app[ORCHESTRATOR]
    record = await orchestrator.registrations.add(parse_add_model(await read_body(request)))
    return json_reply(orchestrator.views.model(record), status=201)


async def get_model(request: web.Request) -> web.Response:
    """`GET /admin/models/{name}`."""
    orchestrator = request.app[ORCHESTRATOR]
    return json_reply(orchestrator.views.model(orchestrator.models.get(request.match_info["name"])))


async def stop_model(request: web.Request) -> web.Response:
    """`POST /admin/models/{name}/stop`: unbind now, whatever the keep-alive."""
    body = parse_stop_model(await read_body(request))
    name = request.match_info["name"]
    num_unloaded = await request.app[ORCHESTRATOR].stop_model(name, drop_bytes=body.drop_bytes)
    return json_reply(Stopped(num_unloaded=num_unloaded))


async def remove_model(request: web.Request) -> web.Response:
    """`DELETE /admin/models/{name}`."""
    name = request.match_info["name"]
    await request.app[ORCHESTRATOR].remove_model(name)
    return json_reply(Deleted(deleted=name))
