# SPDX-License-Identifier: Apache-2.0
"""A small cluster for benchmarks: a store, one orchestrator, and agents, each a process of this machine."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client

PATIENCE_S = 120.0


class Nodes:
    """Use as a context manager; `client` speaks to the orchestrator."""

    client: Client

    def __init__(
        self, home: Path, num_agents: int, *, store: Literal["redis", "sqlite"] = "redis", **agent_flags: str
    ) -> None:
        """`store`: SQLite needs no server, where there is none. Agents get `agent_flags`."""
        self._home = home
        self._store = store
        self._num_agents = num_agents
        self._flags = {name.replace("_", "-"): value for name, value in agent_flags.items()}
        self._stack = ExitStack()
        self.front: LocalServer
        self.agents: list[LocalServer] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def agent_ids(self) -> list[str]:
        """Those that are alive."""
        views = self.client.agents()
        return sorted(view.status.agent_id for view in views if view.is_alive and view.status)

    def _start(self) -> None:
        env = {
            "SLLM_SECRET": secrets.token_hex(16),
            "SLLM_METADATA_URL": self._store_url(),
        }
        self.front = LocalServer(self._home / "front", command="orchestrator", env=env)
        self._stack.callback(self.front.stop)
        self.front.start()
        for number in range(self._num_agents):
            agent = LocalServer(
                self._home / f"node{number}", command="agent", flags=self._flags, env={**os.environ, **env}
            )
            self._stack.callback(agent.stop)
            self.agents.append(agent.start())
        self.client = self._stack.enter_context(Client(self.front.url))
        deadline_s = time.monotonic() + PATIENCE_S
        while len(self.agent_ids()) < self._num_agents:
            if time.monotonic() > deadline_s:
                raise TimeoutError("the agents did not join")
            time.sleep(0.1)

    def _store_url(self) -> str:
        if self._store == "redis":
            return f"redis://127.0.0.1:{self._redis()}"
        self._home.mkdir(parents=True, exist_ok=True)
        return f"sqlite:{self._home / 'metadata.sqlite'}"

    def _redis(self) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = [
            "redis-server",
            "--port",
            str(port),
            "--save",
            "",
            "--appendonly",
            "no",
            "--bind",
            "127.0.0.1",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return port
