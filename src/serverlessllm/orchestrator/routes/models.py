# SPDX-License-Identifier: Apache-2.0
"""`/admin/models`: register, look at, pull, stop and remove models."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from aiohttp import web

from serverlessllm.errors import SllmError
from serverlessllm.orchestrator.admission import read_body
from serverlessllm.orchestrator.app_key import ORCHESTRATOR
from serverlessllm.orchestrator.orchestrator import Orchestrator
from serverlessllm.orchestrator.rank_rules import check_ranks
from serverlessllm.orchestrator.replies import json_reply
from serverlessllm.wire import sse
from serverlessllm.wire.admin import Deleted, ModelList, Stopped, parse_add_model, parse_stop_model

TELL_EVERY_S: Final = 0.25


def add_routes(router: web.UrlDispatcher) -> None:
    """Add every route of this file."""
    router.add_get("/admin/models", list_models)
    router.add_post("/admin/models", add_model)
    router.add_post("/admin/models/{name:.+}/stop", stop_model)
    router.add_post("/admin/models/{name:.+}/pull", pull_model)
    router.add_get("/admin/models/{name:.+}", get_model)
    router.add_delete("/admin/models/{name:.+}", remove_model)


async def list_models(request: web.Request) -> web.Response:
    """`GET /admin/models`."""
    return json_reply(ModelList(models=request.app[ORCHESTRATOR].views.models()))


async def add_model(request: web.Request) -> web.Response:
    """`POST /admin/models`: answers at once; the registration goes on, follow it with GET."""
    orchestrator = request.app[ORCHESTRATOR]
    addition = parse_add_model(await read_body(request))
    states = [link.state.base for link in orchestrator.agents.alive()]
    check_ranks(addition, [state for state in states if state is not None])
    record = await orchestrator.registrations.add(addition)
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


async def pull_model(request: web.Request) -> web.StreamResponse:
    """`POST /admin/models/{name}/pull`: an event stream of the model's view until its bytes are here.

    Who leaves stops the fetch, unless others wait for it; what arrived is kept.
    """
    orchestrator = request.app[ORCHESTRATOR]
    name = request.match_info["name"]
    orchestrator.models.get(name)
    pull = asyncio.ensure_future(orchestrator.pull_model(name))
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    try:
        await response.prepare(request)
        seq = 0
        while not pull.done():
            seq += 1
            await response.write(_view_event(orchestrator, name, seq))
            await asyncio.wait({pull}, timeout=TELL_EVERY_S)
        pull.result()
        await response.write(_view_event(orchestrator, name, seq + 1) + sse.DONE)
    except SllmError as error:
        await response.write(sse.failure(error))
    finally:
        pull.cancel()
    return response


def _view_event(orchestrator: Orchestrator, name: str, seq: int) -> bytes:
    """Raises ModelNotFoundError when it was removed."""
    return sse.event(seq, msgspec.json.encode(orchestrator.views.model(orchestrator.models.get(name))))


async def remove_model(request: web.Request) -> web.Response:
    """`DELETE /admin/models/{name}`."""
    name = request.match_info["name"]
    await request.app[ORCHESTRATOR].remove_model(name)
    return json_reply(Deleted(deleted=name))
