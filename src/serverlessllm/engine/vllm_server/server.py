# SPDX-License-Identifier: Apache-2.0
"""The server's process: started below a worker, watched, ended with it. Knows no requests."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from serverlessllm.engine.process import describe_exit
from serverlessllm.engine.vllm_server.client import ServerClient
from serverlessllm.engine.vllm_server.command import SOCKET_NAME
from serverlessllm.errors import EngineError

LOG_NAME: Final = "vllm.log"
START_TIMEOUT_S: Final = 1800.0
"""Far beyond any start; the agent's `load_timeout_s` ends a worker that takes longer than the operator wants."""
POLL_S: Final = 0.05
_LOG_TAIL_BYTES: Final = 3000


class ServerProcess:
    """One `vllm` server in `directory`, where its socket and its log are."""

    def __init__(self, directory: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it; it does not answer yet. Raises EngineError when it cannot be started."""
        self._log_path = directory / LOG_NAME
        try:
            with self._log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    arguments,
                    cwd=directory,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        except OSError as error:
            raise EngineError(f"cannot start vLLM: {error}") from error
        self.socket_path = directory / SOCKET_NAME

    @property
    def pid(self) -> int:
        """Of the HTTP server; its engine is a child of it."""
        return self._process.pid

    def check(self) -> None:
        """Raises EngineError with the end of its log if it has ended."""
        exit_code = self._process.poll()
        if exit_code is not None:
            raise EngineError(
                f"the vLLM server {describe_exit(exit_code)}; its log ends:\n{self._log_tail()}"
            )

    def wait_ready(self, client: ServerClient) -> None:
        """Until `/health` is 200. Raises EngineError when it ends before."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            self.check()
            if self.socket_path.exists():
                try:
                    client.get("/health", timeout_s=10.0)
                    return
                except EngineError:
                    pass
            if time.monotonic() > deadline_s:
                raise EngineError(f"vLLM was not ready in {START_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it now; its engine's process follows by the kernel's parent-death signal."""
        self._process.kill()
        self._process.wait()

    def _log_tail(self) -> str:
        with self._log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
