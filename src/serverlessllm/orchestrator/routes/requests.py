# SPDX-License-Identifier: Apache-2.0
"""`/admin/requests`: timelines of live and recent requests, and why their replicas are where they are.
`/admin/decisions`: the recent placement decisions, one a line.
"""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from serverlessllm.errors import InvalidRequestError, NotFoundError
from serverlessllm.orchestrator.admission import read_body
from serverlessllm.orchestrator.app_key import ORCHESTRATOR
from serverlessllm.orchestrator.replies import json_reply
from serverlessllm.wire.admin import RequestList
from serverlessllm.wire.moves import parse_move

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 10_000
_lines = msgspec.json.Encoder()


def add_routes(router: web.UrlDispatcher) -> None:
    """Add every route of this file."""
    router.add_get("/admin/requests", list_requests)
    router.add_get("/admin/requests/{id}", get_request)
    router.add_post("/admin/requests/{id}/migrate", move_request)
    router.add_get("/admin/decisions", list_decisions)


async def list_requests(request: web.Request) -> web.Response:
    """`GET /admin/requests?limit=N`: the newest first."""
    limit = _limit(request.query.get("limit"))
    orchestrator = request.app[ORCHESTRATOR]
    found = orchestrator.views.requests(limit)
    if orchestrator.siblings is not None:
        found = await orchestrator.siblings.requests(found, limit)
    return json_reply(RequestList(requests=found))


async def get_request(request: web.Request) -> web.Response:
    """`GET /admin/requests/{id}`: also one that another worker served."""
    orchestrator, request_id = request.app[ORCHESTRATOR], request.match_info["id"]
    try:
        return json_reply(orchestrator.views.request(request_id))
    except NotFoundError:
        if orchestrator.siblings is None:
            raise
        detail = await orchestrator.siblings.request(request_id)
        if detail is None:
            raise
        return json_reply(detail)


async def move_request(request: web.Request) -> web.Response:
    """`POST /admin/requests/{id}/migrate`: move a running stream to another agent."""
    orchestrator, request_id = request.app[ORCHESTRATOR], request.match_info["id"]
    body = parse_move(await read_body(request))
    return json_reply(await orchestrator.moves.move(request_id, body.to, body.mode))


async def list_decisions(request: web.Request) -> web.Response:
    """`GET /admin/decisions?limit=N`: JSON lines, the newest last."""
    decisions = request.app[ORCHESTRATOR].decisions.recent(_limit(request.query.get("limit")))
    return web.Response(body=_lines.encode_lines(decisions), content_type="application/x-ndjson")


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise InvalidRequestError(f"limit: must be a number from 1 to {MAX_LIMIT}", param="limit")
