# SPDX-License-Identifier: Apache-2.0
"""`sllm agent`: one node's agent as a process of its own, a member of the cluster through the metadata store."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from urllib.parse import urlsplit

from serverlessllm.agent.agent import Agent
from serverlessllm.agent.api import create_app
from serverlessllm.agent.membership import Membership
from serverlessllm.app import process, traces
from serverlessllm.app.data_dir import DataDir
from serverlessllm.app.drain import drain_agent
from serverlessllm.app.http_server import listen, start_http
from serverlessllm.clock import SystemClock
from serverlessllm.config import Config
from serverlessllm.errors import ConfigError
from serverlessllm.metadata.location import parse_location
from serverlessllm.metadata.open import open_store
from serverlessllm.metadata.records import AgentRecord
from serverlessllm.sdk.tls import server_context
from serverlessllm.wire import WIRE_VERSION


async def start(config: Config, data_dir: DataDir, stack: AsyncExitStack) -> str:
    """Serve, then join: an orchestrator that hears of us can reach us. Returns our URL."""
    parse_location(config.metadata.url, data_dir.path)
    tls = server_context(config.tls, is_internal=True)
    spans = traces.start(config, stack)
    agent = Agent(config, data_dir.secret(), SystemClock(), spans=spans)
    await agent.start()
    stack.push_async_callback(agent.stop)
    server = await start_http(
        create_app(agent), listen(config.agent.host, config.agent.port, key="agent.port"), tls
    )
    stack.push_async_callback(server.stop)
    record = AgentRecord(
        id=agent.agent_id,
        address=advertised(config, server.url),
        wire_version=WIRE_VERSION,
        devices=("cpu",),
        engines=tuple(agent.engines),
        memory_bytes=agent.status().arena_budget_bytes,
    )
    membership = Membership(
        partial(open_store, config.metadata, data_dir.path), record, ttl_s=config.metadata.lease_ttl_s
    )
    membership.start()
    stack.push_async_callback(membership.stop)
    stack.push_async_callback(drain_agent, agent, membership, config.stop_grace_s)
    return server.url


def advertised(config: Config, url: str) -> str:
    """The URL at which orchestrators reach us. Raises ConfigError when it must be told."""
    if config.agent.advertise:
        parts = urlsplit(config.agent.advertise)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("agent.advertise: write http://HOST:PORT", param="agent.advertise")
        return config.agent.advertise.rstrip("/")
    if config.agent.host in ("0.0.0.0", "::"):
        raise ConfigError(
            f"agent.advertise: say at which URL this agent is reached; it listens on all of {config.agent.host}",
            param="agent.advertise",
        )
    return url


def run(config: Config, *, ready: process.Ready | None = None) -> None:
    """Run until SIGINT or SIGTERM."""
    process.run(config, start, ready=ready)
