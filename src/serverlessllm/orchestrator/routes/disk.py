# SPDX-License-Identifier: Apache-2.0
"""`/admin/disk`: what lies on the nodes' disks, and its cleaning."""

from __future__ import annotations

from aiohttp import web

from serverlessllm.orchestrator.admission import read_body
from serverlessllm.orchestrator.app_key import ORCHESTRATOR
from serverlessllm.orchestrator.replies import json_reply
from serverlessllm.wire.disk import parse_clean_disk


def add_routes(router: web.UrlDispatcher) -> None:
    """Add every route of this file."""
    router.add_get("/admin/disk", view_disks)
    router.add_post("/admin/disk/clean", clean_disks)


async def view_disks(request: web.Request) -> web.Response:
    """`GET /admin/disk`."""
    return json_reply(await request.app[ORCHESTRATOR].disks.view())


async def clean_disks(request: web.Request) -> web.Response:
    """`POST /admin/disk/clean`."""
    wish = parse_clean_disk(await read_body(request))
    return json_reply(await request.app[ORCHESTRATOR].disks.clean(wish))
