# SPDX-License-Identifier: Apache-2.0
"""`/admin/scheduler/weights`: how much each term of a placement's score counts."""

from __future__ import annotations

from aiohttp import web

from serverlessllm.orchestrator.admission import read_body
from serverlessllm.orchestrator.app_key import ORCHESTRATOR
from serverlessllm.orchestrator.replies import json_reply
from serverlessllm.wire.scheduler import parse_weights


def add_routes(router: web.UrlDispatcher) -> None:
    """Add every route of this file."""
    router.add_get("/admin/scheduler/weights", get_weights)
    router.add_put("/admin/scheduler/weights", put_weights)


async def get_weights(request: web.Request) -> web.Response:
    """`GET /admin/scheduler/weights`."""
    return json_reply(request.app[ORCHESTRATOR].weights.get())


async def put_weights(request: web.Request) -> web.Response:
    """`PUT /admin/scheduler/weights`: every orchestrator decides by them within a second."""
    wanted = parse_weights(await read_body(request))
    return json_reply(await request.app[ORCHESTRATOR].weights.set(wanted))
