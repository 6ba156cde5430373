# SPDX-License-Identifier: Apache-2.0
"""A cluster of real processes for tests: orchestrators and agents that share a metadata server and a secret."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from support.platform import PATIENCE_S, eventually


class Cluster:
    """Use as a context manager; `agent()` and `orchestrator()` start a process each."""

    def __init__(self, home: Path, metadata_url: str, env: Mapping[str, str] | None = None) -> None:
        self._home = home
        self.secret = "the-secret-of-this-cluster"
        self._env = {
            "SLLM_SECRET": self.secret,
            "SLLM_METADATA_URL": metadata_url,
            "SLLM_METADATA_CALL_TIMEOUT_S": "2",
            **(env or {}),
        }
        self._stack = ExitStack()
        self._num = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def agent(self, env: Mapping[str, str] | None = None, /, **flags: str) -> LocalServer:
        """A node with the simulated engine's budget and one primed worker; `env` is added to its environment."""
        small = {"arena_budget_bytes": "64MiB", "engine_threads": "1", "arena_huge_pages": "never"}
        return self._start("agent", {**small, **flags}, env)

    def orchestrator(self, **flags: str) -> LocalServer:
        """A front."""
        return self._start("orchestrator", {"orchestrator_hold_silently_s": "0.2", **flags})

    def _start(
        self, command: str, flags: dict[str, str], env: Mapping[str, str] | None = None
    ) -> LocalServer:
        self._num += 1
        named = {name.replace("_", "-"): value for name, value in flags.items()}
        server = LocalServer(
            self._home / f"{command[:1]}{self._num}",
            command=command,
            flags=named,
            env={**self._env, **(env or {})},
        )
        self._stack.callback(server.stop)
        return server.start()


def alive_ids(front: LocalServer) -> list[str]:
    """The agents that the front may use."""
    with Client(front.url) as client:
        return sorted(view.status.agent_id for view in client.agents() if view.is_alive and view.status)


def until_alive(front: LocalServer, count: int) -> list[str]:
    """Wait until the front has exactly so many agents."""
    eventually(lambda: len(alive_ids(front)) == count)
    return alive_ids(front)


def add_model(
    front: LocalServer, name: str, source: Path, *, max_replicas: int | None = None, **options: float
) -> None:
    """Register a simulated model and wait until it is ready."""
    with Client(front.url) as client:
        client.add_model(
            name, str(source), engine="simulated", options=options, max_replicas=max_replicas, wait=True
        )


def chat(front: LocalServer, model: str, **fields: Any) -> httpx.Response:
    """A call without streaming."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, **fields}
    return httpx.post(f"{front.url}/v1/chat/completions", json=body, timeout=PATIENCE_S)
