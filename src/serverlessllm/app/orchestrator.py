# SPDX-License-Identifier: Apache-2.0
"""`sllm orchestrator`: one front of a cluster. It finds its agents, and other fronts' work, in the metadata store."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

from serverlessllm.app import process, traces, worker_parent
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
from serverlessllm.orchestrator.siblings import Siblings
from serverlessllm.sdk.tls import ClientTls, server_context


async def start(config: Config, data_dir: DataDir, stack: AsyncExitStack) -> str:
    """Open the store, an ingest service of our own unless another is named, the front. Returns its URL."""
    secret = data_dir.secret()
    front_socket = listen(config.orchestrator.host, config.orchestrator.port, key="orchestrator.port")
    stack.callback(front_socket.close)
    ingest_socket = None
    if not config.orchestrator.ingest_url:
        ingest_socket = listen(config.ingest.host, config.ingest.port, key="ingest.port")
        stack.callback(ingest_socket.close)
    ingest_url = await start_ingest(config, secret, stack, ingest_socket)
    return await start_front(config, secret, stack, front_socket, ingest_url)


async def start_ingest(config: Config, secret: str, stack: AsyncExitStack, sock: socket.socket | None) -> str:
    """Serve ingestion on `sock`; without one, the service is elsewhere. Its URL."""
    if sock is None:
        return config.orchestrator.ingest_url
    app = create_ingest_app(Workplace(config), Gate(secret))
    ingest = await start_http(app, sock, server_context(config.tls, is_internal=True))
    stack.push_async_callback(ingest.stop)
    return ingest.url


async def start_front(
    config: Config,
    secret: str,
    stack: AsyncExitStack,
    sock: socket.socket,
    ingest_url: str,
    siblings: Siblings | None = None,
) -> str:
    """Serve the front on `sock`, beside its `siblings` if it is one of several workers. Its URL."""
    tls = server_context(config.tls, is_internal=False)
    own = () if config.orchestrator.ingest_url else (ingest_url,)
    store = await open_store(config.metadata, config.data_path)
    stack.push_async_callback(store.close)
    await put_given_keys(store, SystemClock())
    orchestrator = Orchestrator(
        config,
        store,
        secret,
        [],
        ingest_url,
        SystemClock(),
        tls=ClientTls(config.tls, own=own),
        siblings=siblings,
        spans=traces.start(config, stack),
    )
    await orchestrator.start()
    stack.push_async_callback(orchestrator.stop)
    if siblings is not None:
        await siblings.start(orchestrator)
        stack.push_async_callback(siblings.stop)
    front = await start_http(create_app(orchestrator), sock, tls)
    stack.push_async_callback(front.stop)
    stack.push_async_callback(drain_front, orchestrator, config.stop_grace_s)
    return front.url


def run(config: Config, *, ready: process.Ready | None = None) -> None:
    """Run until SIGINT or SIGTERM: in this process, or in as many workers as are asked for."""
    if config.orchestrator.num_workers > 1:
        worker_parent.run(config, ready=ready)
    else:
        process.run(config, start, ready=ready)
