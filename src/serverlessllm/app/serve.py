# SPDX-License-Identifier: Apache-2.0
"""`sllm serve`: orchestrator, agent and ingest in one event loop, workers as children.

The parts speak HTTP over loopback exactly as they do across machines.
"""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack

from serverlessllm.agent.agent import Agent
from serverlessllm.agent.api import create_app as create_agent_app
from serverlessllm.app import process, traces
from serverlessllm.app.data_dir import DataDir
from serverlessllm.app.drain import drain_front
from serverlessllm.app.given_keys import put_given_keys
from serverlessllm.app.http_server import listen, start_http
from serverlessllm.clock import SystemClock
from serverlessllm.config import Config
from serverlessllm.errors import ConfigError
from serverlessllm.ingest.gate import Gate
from serverlessllm.ingest.service import create_app as create_ingest_app
from serverlessllm.ingest.workplace import Workplace
from serverlessllm.metadata.open import open_store
from serverlessllm.orchestrator.api import create_app as create_orchestrator_app
from serverlessllm.orchestrator.orchestrator import Orchestrator
from serverlessllm.sdk.tls import ClientTls, server_context


async def start(config: Config, data_dir: DataDir, stack: AsyncExitStack) -> str:
    """Start ingest, agent and orchestrator; `stack` stops them in the reverse order. Returns the front's URL."""
    if config.orchestrator.num_workers > 1:
        raise ConfigError(
            "orchestrator.num_workers: `sllm serve` is one process; run `sllm orchestrator` and `sllm agent`",
            param="orchestrator.num_workers",
        )
    secret = data_dir.secret()
    clock = SystemClock()
    tls = server_context(config.tls, is_internal=False)
    internal_tls = server_context(config.tls, is_internal=True)
    front_socket = listen(config.orchestrator.host, config.orchestrator.port, key="orchestrator.port")
    stack.callback(front_socket.close)
    store = await open_store(config.metadata, data_dir.path)
    stack.push_async_callback(store.close)
    await put_given_keys(store, SystemClock())

    ingest_app = create_ingest_app(Workplace(config), Gate(secret))
    ingest = await start_http(
        ingest_app, listen(config.ingest.host, config.ingest.port, key="ingest.port"), internal_tls
    )
    stack.push_async_callback(ingest.stop)

    spans = traces.start(config, stack)
    agent = Agent(config, secret, clock, spans=spans)
    await agent.start()
    stack.push_async_callback(agent.stop)
    agent_socket = listen(config.agent.host, config.agent.port, key="agent.port")
    agent_http = await start_http(create_agent_app(agent), agent_socket, internal_tls)
    stack.push_async_callback(agent_http.stop)

    def remove_artifact(revision: str) -> None:
        shutil.rmtree(data_dir.artifacts / revision, ignore_errors=True)

    orchestrator = Orchestrator(
        config,
        store,
        secret,
        [agent_http.url],
        ingest.url,
        clock,
        remove_artifact=remove_artifact,
        spans=spans,
        tls=ClientTls(config.tls, own=(agent_http.url, ingest.url)),
    )
    await orchestrator.start()
    stack.push_async_callback(orchestrator.stop)
    front = await start_http(create_orchestrator_app(orchestrator), front_socket, tls)
    stack.push_async_callback(front.stop)
    stack.push_async_callback(drain_front, orchestrator, config.stop_grace_s)
    return front.url


def run(config: Config, *, ready: process.Ready | None = None) -> None:
    """Run until SIGINT or SIGTERM. `ready` is called with the URL once requests are answered."""
    process.run(config, start, ready=ready)
