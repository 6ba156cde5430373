# SPDX-License-Identifier: Apache-2.0
"""`/admin/agents`: the nodes as their event streams tell."""

from __future__ import annotations

from aiohttp import web

from serverlessllm.orchestrator.admission import read_body
from serverlessllm.orchestrator.app_key import ORCHESTRATOR
from serverlessllm.orchestrator.replies import json_reply
from serverlessllm.wire.admin import AgentList, parse_drain_agent
from serverlessllm.wire.moves import parse_evacuate


def add_routes(router: web.UrlDispatcher) -> None:
    """Add every route of this file."""
    router.add_get("/admin/agents", list_agents)
    router.add_get("/admin/agents/{id}", get_agent)
    router.add_post("/admin/agents/{id}/drain", drain_agent)
    router.add_post("/admin/agents/{id}/evacuate", evacuate_agent)


async def list_agents(request: web.Request) -> web.Response:
    """`GET /admin/agents`."""
    return json_reply(AgentList(agents=request.app[ORCHESTRATOR].agents.views()))


async def get_agent(request: web.Request) -> web.Response:
    """`GET /admin/agents/{id}`."""
    return json_reply(request.app[ORCHESTRATOR].agents.view(request.match_info["id"]))


async def drain_agent(request: web.Request) -> web.Response:
    """`POST /admin/agents/{id}/drain`: it takes nothing new, or again; what runs there is finished."""
    orchestrator, agent_id = request.app[ORCHESTRATOR], request.match_info["id"]
    body = parse_drain_agent(await read_body(request))
    await orchestrator.members.drain(agent_id, is_drained=body.drained)
    return json_reply(orchestrator.agents.view(agent_id))


async def evacuate_agent(request: web.Request) -> web.Response:
    """`POST /admin/agents/{id}/evacuate`: drain it, and move the streams that run there to other agents."""
    orchestrator, agent_id = request.app[ORCHESTRATOR], request.match_info["id"]
    body = parse_evacuate(await read_body(request))
    await orchestrator.members.drain(agent_id, is_drained=True, is_leaving=True)
    return json_reply(await orchestrator.moves.evacuate(agent_id, body.mode))
