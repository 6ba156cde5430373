# SPDX-License-Identifier: Apache-2.0
"""`sllm orchestrator`: one front of a cluster. It finds its agents, and other fronts' work, in the metadata store."""

from __future__ import annotations

from contextlib import AsyncExitStack

from serverlessllm.app import process
from serverlessllm.app.data_dir import DataDir
from serverlessllm.app.drain import drain_front
from serverlessllm.app.given_keys import put_given_keys
from serverlessllm.app.http_server import listen, start_http
from serverlessllm.clock import SystemClock
from serverlessllm.config import Config
from serverlessllm.ingest.gate import Gate
from serverlessllm.ingest.service import create_app as create_ingest_app
from serverlessllm.ingest.workplace import Workplace
from serverlessllm.metadata.open import open_store
from serverlessllm.orchestrator.api import create_app
from serverlessllm.orchestrator.orchestrator import Orchestrator


async def start(config: Config, data_dir: DataDir, stack: AsyncExitStack) -> str:
    """Open the store, an ingest service of our own unless another is named, the front. Returns its URL."""
    secret = data_dir.secret()
    front_socket = listen(config.orchestrator.host, config.orchestrator.port, key="orchestrator.port")
    stack.callback(front_socket.close)
    store = await open_store(config.metadata, data_dir.path)
    stack.push_async_callback(store.close)
    await put_given_keys(store, SystemClock())
    ingest_url = config.orchestrator.ingest_url
    if not ingest_url:
        ingest_socket = listen(config.ingest.host, config.ingest.port, key="ingest.port")
        ingest = await start_http(create_ingest_app(Workplace(config), Gate(secret)), ingest_socket)
        stack.push_async_callback(ingest.stop)
        ingest_url = ingest.url
    orchestrator = Orchestrator(config, store, secret, [], ingest_url, SystemClock())
    await orchestrator.start()
    stack.push_async_callback(orchestrator.stop)
    front = await start_http(create_app(orchestrator), front_socket)
    stack.push_async_callback(front.stop)
    stack.push_async_callback(drain_front, orchestrator, config.stop_grace_s)
    return front.url


def run(config: Config, *, ready: process.Ready | None = None) -> None:
    """Run until SIGINT or SIGTERM."""
    process.run(config, start, ready=ready)
