# SPDX-License-Identifier: Apache-2.0
"""`sllm ingest`: the ingest service as a process of its own.

It may share its data directory with an agent, whose artifacts it then makes. It is never open: callers hold the
directory's cluster secret, or a node's or admin's API key from the metadata store.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

import uvloop

from serverlessllm.app.data_dir import cluster_secret
from serverlessllm.app.http_server import listen, start_http
from serverlessllm.config import Config
from serverlessllm.errors import ConfigError
from serverlessllm.ingest.gate import Gate
from serverlessllm.ingest.service import create_app
from serverlessllm.ingest.workplace import Workplace
from serverlessllm.metadata.api_keys import hash_key
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.open import open_store
from serverlessllm.metadata.records import KeyRecord, decode
from serverlessllm.metadata.store import MetadataStore
from serverlessllm.sdk.tls import server_context
from serverlessllm.telemetry import logs
from serverlessllm.types import Role

log = logging.getLogger(__name__)


class StoredKeys:
    """API keys in a metadata store, looked up when they are shown."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def role(self, plaintext: str) -> Role | None:
        """See `ingest.gate.Keys`."""
        entry = await self._store.get(Keys.api_key(hash_key(plaintext)))
        return None if entry is None else decode(KeyRecord, entry).role


async def serve(config: Config, *, ready: Callable[[str], None] | None = None) -> None:
    """Run until SIGINT or SIGTERM. `ready` is called with the URL once requests are answered.

    Raises: ConfigError for an address or a directory that cannot be used; ConflictError when another ingest service
    has the directory.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stopping.set)
    data_path = config.data_path
    tls = server_context(config.tls, is_internal=True)
    try:
        data_path.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret = cluster_secret(data_path)
    except OSError as error:
        raise ConfigError(
            f"cannot use data directory {data_path}: {error.strerror}; choose another with --data-dir",
            param="data_dir",
        ) from error
    async with AsyncExitStack() as stack:
        sock = listen(config.ingest.host, config.ingest.port, key="ingest.port")
        stack.callback(sock.close)
        store = await open_store(config.metadata, data_path)
        stack.push_async_callback(store.close)
        gate = Gate(secret, StoredKeys(store))
        server = await start_http(create_app(Workplace(config), gate), sock, tls)
        stack.push_async_callback(server.stop)
        log.info("ingest service on %s", server.url)
        if ready is not None:
            ready(server.url)
        await stopping.wait()
        log.info("stopping")


def run(config: Config, *, ready: Callable[[str], None] | None = None) -> None:
    """`serve` on uvloop, with this process's logging set up."""
    logs.configure(config.log_level, config.log_format)
    uvloop.run(serve(config, ready=ready))
