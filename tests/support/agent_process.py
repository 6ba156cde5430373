# SPDX-License-Identifier: Apache-2.0
"""A real agent with simulated workers as a process that tests may kill, and what tests ask of it over HTTP.

`python -m support.agent_process SETTINGS` is the process: settings by section, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import httpx
import msgspec

from serverlessllm.agent.agent import Agent
from serverlessllm.agent.api import create_app
from serverlessllm.app.http_server import listen, start_http
from serverlessllm.clock import SystemClock
from serverlessllm.config import MIB, Config, replace
from serverlessllm.wire.agent import SECRET_HEADER, AgentStatus

SECRET: Final = "test-secret"
PATIENCE_S: Final = 60.0


class AgentProcess:
    """Use as a context manager; `kill` and `start` in between as often as wanted."""

    def __init__(self, data_path: Path, **sections: Mapping[str, Any]) -> None:
        small: dict[str, Any] = {
            "data_dir": str(data_path),
            "arena": {"budget_bytes": 64 * MIB, "extent_bytes": 2 * MIB, "huge_pages": "never"},
            "engine": {"slots": 1, "max_replicas": 4, "threads": 1, "dtype": "float32"},
            "ingest": {"allow_private_urls": True},
        }
        for section, values in sections.items():
            small[section] = {**small.get(section, {}), **values}
        self.data_path = data_path
        self._settings = json.dumps(small)
        self._process: subprocess.Popen[str] | None = None
        self._url = ""

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def url(self) -> str:
        return self._url

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-m", "support.agent_process", self._settings]
        search = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": search}
        )
        assert self._process.stdout is not None
        self._url = self._process.stdout.readline().strip()
        assert self._url, "the agent did not start"

    def kill(self) -> None:
        """`kill -9`: no clean-up runs."""
        self._running().kill()
        self._end()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT, …"""
        self._running().send_signal(number)

    def load(self, directory: Path, *, model: str = "m", attempt: int = 1, **fields: Any) -> httpx.Response:
        """`POST /load` of the revision that the directory is named after."""
        body = {"model": model, "revision": directory.name, "artifact": str(directory), "attempt": attempt}
        return self._post("/load", body | {"engine": "simulated"} | fields)

    def unload(self, revision: str, *, model: str = "m", attempt: int = 1, **fields: Any) -> httpx.Response:
        """`POST /unload`."""
        return self._post("/unload", {"model": model, "revision": revision, "attempt": attempt} | fields)

    def status(self) -> AgentStatus:
        """`GET /status`."""
        answer = httpx.get(f"{self._url}/status", headers={SECRET_HEADER: SECRET}, timeout=PATIENCE_S)
        return msgspec.json.decode(answer.content, type=AgentStatus)

    def _post(self, path: str, body: object) -> httpx.Response:
        headers = {SECRET_HEADER: SECRET}
        return httpx.post(f"{self._url}{path}", json=body, headers=headers, timeout=PATIENCE_S)

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "the agent was not started"
        return self._process

    def _end(self) -> None:
        process = self._running()
        process.wait(PATIENCE_S)
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._running().poll() is None:
            self._running().send_signal(signal.SIGCONT)
            self._running().send_signal(signal.SIGTERM)
        self._end()


async def _serve(settings: dict[str, Any]) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    agent = Agent(replace(Config(), settings), SECRET, SystemClock(), engines=["simulated"])
    await agent.start()
    server = await start_http(create_app(agent), listen("127.0.0.1", 0, key="agent.port"))
    print(server.url, flush=True)  # noqa: T201  # what the parent waits for
    await stopping.wait()
    await server.stop()
    await agent.stop()


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
