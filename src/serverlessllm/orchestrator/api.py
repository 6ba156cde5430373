# SPDX-License-Identifier: Apache-2.0
"""The front's HTTP application: every route, admission before each, and errors in one shape.

Serve it with `handler_cancellation`: a client that leaves must cancel its request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from serverlessllm.errors import (
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    ShuttingDownError,
    SllmError,
)
from serverlessllm.orchestrator.admission import TENANT, too_large
from serverlessllm.orchestrator.app_key import ORCHESTRATOR
from serverlessllm.orchestrator.orchestrator import Orchestrator
from serverlessllm.orchestrator.replies import error_reply
from serverlessllm.orchestrator.routes import (
    agents,
    console,
    disk,
    health,
    keys,
    models,
    openai,
    requests,
    scheduler,
)

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(orchestrator: Orchestrator) -> web.Application:
    """The application of one orchestrator, which its owner starts and stops."""
    app = web.Application(middlewares=[gate], client_max_size=orchestrator.config.max_body_bytes)
    app[ORCHESTRATOR] = orchestrator
    for part in (openai, models, agents, disk, requests, scheduler, keys, health, console):
        part.add_routes(app.router)
    app.on_shutdown.append(_begin_stop)
    return app


async def _begin_stop(app: web.Application) -> None:
    """Before handlers are cancelled: that is not their clients' leaving."""
    app[ORCHESTRATOR].proxy.begin_stop()


@web.middleware
async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Admit, handle, and turn every error into OpenAI's shape with its own status."""
    try:
        orchestrator = request.app[ORCHESTRATOR]
        request[TENANT] = orchestrator.admission.check(request)
        if orchestrator.is_stopping and request.method == hdrs.METH_POST:
            raise ShuttingDownError("this server is stopping; send the request again")
        return await handler(request)
    except ShuttingDownError as error:
        reply = error_reply(error)
        reply.force_close()  # so that the next try opens a connection, to a server that stays
        return reply
    except SllmError as error:
        return error_reply(error)
    except web.HTTPException as error:
        return _from_aiohttp(error, request)
    except ConnectionResetError:
        raise  # the client left: there is nobody to answer
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return error_reply(SllmError("an internal error; the server's log has it"))


def _from_aiohttp(error: web.HTTPException, request: web.Request) -> web.Response:
    path = request.path[:100]
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            refusal = MethodNotAllowedError(f"{request.method} is not possible on {path}; use {allowed}")
            return error_reply(refusal, {hdrs.ALLOW: allowed})
        case web.HTTPNotFound():
            return error_reply(NotFoundError(f"there is no {path}; see /openapi.json"))
        case web.HTTPRequestEntityTooLarge():
            return error_reply(too_large(request.client_max_size))
        case _:
            return error_reply(InvalidRequestError(f"{path}: {error.reason}"))
