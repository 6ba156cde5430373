# SPDX-License-Identifier: Apache-2.0
"""The processes of a cluster that a run may kill, pause and cut off. Knows no requests and no schedule."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from chaos.harness.network import Host, Network
from chaos.harness.schedule import LEASE_S
from serverlessllm.errors import ServiceError
from serverlessllm.sdk.local_server import LocalServer
from support.metadata_servers import EtcdProcess, RedisProcess, ServerProcess, free_port

SECRET: Final = "the-secret-of-this-cluster"
RUN_VARIABLE: Final = "CHAOS_RUN"
"""Names a run in the environment of all its processes and their descendants: what is left over can be found."""
AGENT_PORT: Final = 8344
RESTART_PATIENCE_S: Final = 60.0
STORES: Final = {"redis": RedisProcess, "etcd": EtcdProcess}


class ServerPart:
    """One process of ours. `num_kills` counts how often it was killed; `lock` is held while it is in trouble."""

    def __init__(self, name: str, server: LocalServer, host: Host | None = None) -> None:
        self.name = name
        self.server = server
        self.host = host
        self.num_kills = 0
        self.is_down = True
        self.lock = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where it is reached; the same after a restart."""
        return self.server.url

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.server.start()
        self.is_down = False

    def start_again(self) -> None:
        """As a service manager does: one that could not start, because the store did not answer, gets another try."""
        deadline_s = time.monotonic() + RESTART_PATIENCE_S
        while self.is_down:
            try:
                self.start()
            except ServiceError:
                assert time.monotonic() < deadline_s, f"{self.name} does not start"

    def kill(self) -> None:
        """`kill -9`."""
        self.num_kills += 1
        self.is_down = True
        self.server.kill()

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.server.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.server.pid, signal.SIGCONT)


class Parts:
    """A running cluster: a metadata server, orchestrators, and agents in namespaces of their own."""

    def __init__(self, home: Path, store_kind: str, run: str, *, agent_flags: Mapping[str, str]) -> None:
        """`run` is the name that RUN_VARIABLE gets; `agent_flags` come on top of small budgets."""
        self.run = run
        self._home = home
        self._agent_flags = agent_flags
        self._stack = ExitStack()
        self.network = self._stack.enter_context(Network())
        self.store: ServerProcess = STORES[store_kind](home / "store", [self.network.gateway])
        self.store_url = f"{store_kind}://{self.network.gateway}:{self.store.port}"
        self.orchestrators: list[ServerPart] = []
        self.agents: list[ServerPart] = []

    async def start(self, num_orchestrators: int, num_agents: int) -> None:
        """Start everything."""
        self._stack.callback(self.store.kill)
        await asyncio.to_thread(self.store.start)
        self.orchestrators = [self._orchestrator(number) for number in range(num_orchestrators)]
        self.agents = [self._agent(number) for number in range(num_agents)]
        parts = [*self.orchestrators, *self.agents]
        await asyncio.gather(*(asyncio.to_thread(part.start_again) for part in parts))

    async def stop(self) -> None:
        """End everything as an operator would."""
        parts = [part for part in [*self.orchestrators, *self.agents] if not part.is_down]
        try:
            await asyncio.gather(*(asyncio.to_thread(part.server.stop) for part in parts))
        finally:
            self._stack.close()

    def _orchestrator(self, number: int) -> ServerPart:
        flags = {"orchestrator-hold-silently-s": "0.3"}
        return self._part("orchestrator", number, free_port(), flags, None)

    def _agent(self, number: int) -> ServerPart:
        host = self.network.add_host()
        small = {
            "host": host.address,
            "arena-budget-bytes": "64MiB",
            "arena-huge-pages": "never",
            "engine-threads": "1",
        }
        return self._part("agent", number, AGENT_PORT, {**small, **self._agent_flags}, host)

    def _part(
        self, command: str, number: int, port: int, flags: Mapping[str, str], host: Host | None
    ) -> ServerPart:
        env: dict[str, Any] = {
            RUN_VARIABLE: self.run,
            "SLLM_SECRET": SECRET,
            "SLLM_METADATA_URL": self.store_url,
            "SLLM_METADATA_CALL_TIMEOUT_S": "2",
            "SLLM_METADATA_LEASE_TTL_S": str(LEASE_S),
        }
        server = LocalServer(
            self._home / f"{command}{number}",
            port=port,
            flags=flags,
            env=env,
            command=command,
            launcher=() if host is None else host.launcher,
        )
        return ServerPart(f"{command} {number}", server, host)
