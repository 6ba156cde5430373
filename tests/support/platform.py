# SPDX-License-Identifier: Apache-2.0
"""A real platform for tests: `sllm serve` as a process, with what tests ask of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import httpx
import psutil

from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from serverlessllm.types import EngineKind

T = TypeVar("T")
PATIENCE_S = 60.0
"""How long `eventually` polls: generous, because machines are shared."""


def eventually(probe: Callable[[], T | None | Literal[False]], *, patience_s: float = PATIENCE_S) -> T:
    """Poll until `probe` gives something true and return it; raise AssertionError with the last value otherwise."""
    deadline = time.monotonic() + patience_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience_s} s; last seen: {value!r}")
        time.sleep(0.02)


class Platform:
    """A running `sllm serve` with small budgets; use as a context manager."""

    def __init__(self, home: Path, env: Mapping[str, str] | None = None, /, **flags: str) -> None:
        self.home = home
        small = {"arena_budget_bytes": "128MiB", "engine_threads": "1", "orchestrator_hold_silently_s": "0.2"}
        merged = {**small, **flags}
        self.server = LocalServer(
            home / "d", flags={name.replace("_", "-"): value for name, value in merged.items()}, env=env
        )

    def __enter__(self) -> Platform:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    @property
    def url(self) -> str:
        return self.server.url

    def client(self) -> Client:
        return Client(self.url)

    def add(
        self,
        name: str,
        source: Path,
        *,
        engine: EngineKind = "simulated",
        options: Mapping[str, float] | None = None,
    ) -> None:
        """Register a model and wait until it is ready."""
        with self.client() as client:
            client.add_model(name, str(source), engine=engine, options=dict(options or {}), wait=True)

    def post(self, path: str, body: object, **kwargs: object) -> httpx.Response:
        """One JSON call, as curl would make it."""
        return httpx.post(f"{self.url}{path}", json=body, timeout=PATIENCE_S)

    def chat(self, model: str, text: str = "Hello", **fields: object) -> httpx.Response:
        """A non-streaming chat call."""
        return self.post(
            "/v1/chat/completions",
            {"model": model, "messages": [{"role": "user", "content": text}], **fields},
        )

    def processes(self) -> list[psutil.Process]:
        """The server's descendants: zygotes, workers, conversions."""
        return list(psutil.Process(self.server.pid).children(recursive=True))

    def worker_pid(self, model: str) -> int:
        """The process that serves `model`, once there is one."""

        def find() -> int | None:
            with self.client() as client:
                for agent in client.agents():
                    for replica in agent.status.replicas if agent.status else []:
                        if replica.model == model and replica.pid:
                            return replica.pid
            return None

        pid = eventually(find)
        return int(pid or 0)
