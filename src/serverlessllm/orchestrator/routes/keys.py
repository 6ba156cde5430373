# SPDX-License-Identifier: Apache-2.0
"""`/admin/keys`: make, list and revoke API keys."""

from __future__ import annotations

from aiohttp import web

from serverlessllm.orchestrator.admission import read_body
from serverlessllm.orchestrator.app_key import ORCHESTRATOR
from serverlessllm.orchestrator.replies import json_reply
from serverlessllm.orchestrator.views import key_view
from serverlessllm.wire.admin import Deleted, KeyCreated, KeyList, parse_create_key


def add_routes(router: web.UrlDispatcher) -> None:
    """Add every route of this file."""
    router.add_get("/admin/keys", list_keys)
    router.add_post("/admin/keys", create_key)
    router.add_delete("/admin/keys/{id}", revoke_key)


async def list_keys(request: web.Request) -> web.Response:
    """`GET /admin/keys`: without their texts, which nobody has."""
    return json_reply(KeyList(keys=[key_view(record) for record in request.app[ORCHESTRATOR].keyring.all()]))


async def create_key(request: web.Request) -> web.Response:
    """`POST /admin/keys`: the only answer that shows the key's text."""
    body = parse_create_key(await read_body(request))
    secret, record = await request.app[ORCHESTRATOR].keyring.create(body.name, body.role, body.tenant)
    return json_reply(
        KeyCreated(key=key_view(record), secret=secret), status=201, headers={"Cache-Control": "no-store"}
    )


async def revoke_key(request: web.Request) -> web.Response:
    """`DELETE /admin/keys/{id}`: the key is refused from now on."""
    key_id = request.match_info["id"]
    await request.app[ORCHESTRATOR].keyring.revoke(key_id)
    return json_reply(Deleted(deleted=key_id))
