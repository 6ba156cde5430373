# SPDX-License-Identifier: Apache-2.0
"""A service of ours as a child process: for demos, tests, benchmarks and programs that bring their own platform."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from serverlessllm.errors import ServiceError

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0


class LocalServer:
    """A platform of one's own, from `start` to `stop`; a context manager.

    `flags` are flags of the command without their dashes (`{"arena-budget-bytes": "1GiB"}`). The log goes to
    `log_path`, by default `<data_dir>/logs/<command>.log`. Port 0, the default, takes a free one: read `url`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        flags: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        log_path: Path | None = None,
        command: str = "serve",
        launcher: Sequence[str] = (),
    ) -> None:
        """`command`: `serve`, or one part alone: `orchestrator`, `agent`, `ingest`.

        `launcher` are words before the command that end by executing it: `("nice", "-n", "5")`.
        """
        self.data_dir = data_dir
        self.log_path = log_path or data_dir / "logs" / f"{command}.log"
        self._command = command
        self._argv = [*launcher, sys.executable, "-m", "serverlessllm.cli.main", command, "--json"]
        self._argv += ["--data-dir", str(data_dir), "--port", str(port)]
        for name, value in (flags or {}).items():
            self._argv.append(f"--{name}={value}")
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        """The process's id. Raises ServiceError when it was not started."""
        return self._running().pid

    def start(self) -> Self:
        """Start and wait until requests are answered. Raises ServiceError with the log's end otherwise."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self._env
            )
        stdout = self._process.stdout
        if stdout is None:
            raise ServiceError("the server's output was not captured")
        watchdog = threading.Timer(START_TIMEOUT_S, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            self.url = self._read_url(stdout)
        finally:
            watchdog.cancel()
        return self

    def _read_url(self, stdout: IO[bytes]) -> str:
        for line in stdout:
            try:
                document = json.loads(line)
            except ValueError:
                continue
            if isinstance(document, dict) and "url" in document:
                return str(document["url"])
        self._wait(self._running())
        tail = self.log_path.read_text(errors="replace")[-2000:]
        raise ServiceError(f"sllm {self._command} did not start; end of {self.log_path}:\n{tail}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServiceError("the server was not started")
        return self._process

    def kill(self) -> None:
        """`kill -9`: no clean-up runs."""
        process = self._running()
        process.kill()
        self._wait(process)

    def stop(self) -> int:
        """End it by SIGTERM and return its exit status; by SIGKILL if it does not stop in time."""
        process = self._running()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return self._wait(process)

    @staticmethod
    def _wait(process: subprocess.Popen[bytes]) -> int:
        try:
            status = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return status

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
