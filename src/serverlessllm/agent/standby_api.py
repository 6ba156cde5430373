# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP surface of moves: `/migrate`, `/standby/{move}`, `GET /infer`. Handlers decode, call, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from serverlessllm.errors import InvalidRequestError
from serverlessllm.wire.agent import InferHeaders
from serverlessllm.wire.migrate import BlocksStored, MigrateRequest, RunList, decode_blocks, decode_round
from serverlessllm.wire.openai import field_error
from serverlessllm.wire.worker import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from serverlessllm.agent.agent import Agent

MAX_MOVE_ID_CHARACTERS = 128


def add_routes(app: web.Application, agent_of: Callable[[web.Request], Agent]) -> None:
    """Add them to the agent's application."""
    routes = _Routes(agent_of)
    app.router.add_post("/migrate", routes.migrate)
    app.router.add_get("/infer", routes.runs, allow_head=False)
    app.router.add_put("/standby/{move}", routes.open)
    app.router.add_patch("/standby/{move}", routes.round)
    app.router.add_post("/standby/{move}/go", routes.go)
    app.router.add_post("/standby/{move}/blocks", routes.blocks)
    app.router.add_delete("/standby/{move}", routes.abort)


class _Routes:
    def __init__(self, agent_of: Callable[[web.Request], Agent]) -> None:
        self._agent_of = agent_of

    async def migrate(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=MigrateRequest)
        except msgspec.MsgspecError as error:
            raise field_error(error) from error
        return _json(await self._agent_of(request).migrations.move(asked))

    async def runs(self, request: web.Request) -> web.Response:
        return _json(RunList(self._agent_of(request).answers.views()))

    async def open(self, request: web.Request) -> web.Response:
        agent, headers = self._agent_of(request), InferHeaders.decode(request.headers)
        first, body = decode_round(await request.read())
        return _json(await agent.standbys.open(_move_id(request), agent.prepare(headers, body), first))

    async def round(self, request: web.Request) -> web.Response:
        sent, _ = decode_round(await request.read())
        return _json(await self._agent_of(request).standbys.round(_move_id(request), sent))

    async def go(self, request: web.Request) -> web.Response:
        last, _ = decode_round(await request.read())
        return _json(await self._agent_of(request).standbys.go(_move_id(request), last))

    async def blocks(self, request: web.Request) -> web.Response:
        # One block of a large model may be larger than any request of a client.
        body = await request.clone(client_max_size=MAX_FRAME_BYTES).read()
        digests, blocks = decode_blocks(body)
        num_stored = await self._agent_of(request).standbys.put_blocks(_move_id(request), digests, blocks)
        return _json(BlocksStored(num_stored))

    async def abort(self, request: web.Request) -> web.Response:
        return _json(await self._agent_of(request).standbys.abort(_move_id(request)))


def _move_id(request: web.Request) -> str:
    move_id = request.match_info["move"]
    if len(move_id) > MAX_MOVE_ID_CHARACTERS:
        raise InvalidRequestError("move: too long", param="move")
    return move_id


def _json(body: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
