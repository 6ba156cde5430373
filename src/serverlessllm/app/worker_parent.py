# SPDX-License-Identifier: Apache-2.0
"""Several workers of one front on one port: a small parent that starts them, watches them and ends them.

The parent owns the data directory, reserves the port (bound with SO_REUSEPORT, never listening: the kernel spreads
connections over the workers' own sockets) and holds the ingest service's socket, which worker 0 serves. It runs no
event loop and no thread, so that it can fork. A worker that dies is replaced; workers end when their parent does.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec

from serverlessllm.app import worker
from serverlessllm.app.data_dir import DataDir
from serverlessllm.app.http_server import listen, reserve
from serverlessllm.config import Config
from serverlessllm.errors import ServiceError, SllmError, from_openai
from serverlessllm.sdk.tls import server_context
from serverlessllm.telemetry import logs

log = logging.getLogger(__name__)

WATCHED: Final = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)
STOP_S: Final = 10.0
"""What a worker may take beyond `stop_grace_s` before it is killed."""
FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 5.0
LASTING_S: Final = 10.0
"""A worker that ran for so long is replaced at once when it ends."""


@dataclass
class _Child:
    pid: int
    started_s: float
    pause_s: float = FIRST_PAUSE_S
    due_s: float = field(default=0.0)


def run(config: Config, *, ready: Callable[[str], None] | None = None) -> None:
    """Run `orchestrator.num_workers` workers until SIGINT or SIGTERM.

    Raises: what the first worker that could not start raised; ConfigError, ConflictError.
    """
    logs.configure(config.log_level, config.log_format)
    server_context(config.tls, is_internal=False)  # a wrong certificate is told before anything starts
    data_dir = DataDir(config.data_path)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    try:
        _Parent(config, data_dir).run(ready)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        data_dir.close()


class _Parent:
    def __init__(self, config: Config, data_dir: DataDir) -> None:
        front = config.orchestrator
        self._num = front.num_workers
        self._port = reserve(front.host, front.port, key="orchestrator.port")
        port = int(self._port.getsockname()[1])
        self._config = replace(config, orchestrator=replace(front, port=port))
        self._ingest: socket.socket | None = None
        if not front.ingest_url:
            self._ingest = listen(config.ingest.host, config.ingest.port, key="ingest.port")
        self._secret = data_dir.secret()
        self._alive_fd, self._our_fd = os.pipe()
        self._run_dir = Path(tempfile.mkdtemp(prefix="sllm-front-"))  # paths of unix sockets must be short
        self._children: dict[int, _Child] = {}

    def run(self, ready: Callable[[str], None] | None) -> None:
        """Start all, say so, watch until a signal, end all."""
        try:
            urls = [self._start(index) for index in range(self._num)]
            log.info("%d workers serve %s", self._num, urls[0])
            if ready is not None:
                ready(urls[0])
            self._watch()
            log.info("stopping")
        finally:
            self._end()

    def _start(self, index: int, known: _Child | None = None) -> str:
        """Fork a worker and wait until it serves; its URL. Raises what it says when it cannot."""
        told_fd, tell_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(told_fd)
            os.close(self._our_fd)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
            place = worker.Place(
                self._config, self._secret, index, self._num, self._ingest, self._alive_fd, self._run_dir
            )
            worker.run(place, tell_fd)
        os.close(tell_fd)
        child = known or _Child(pid, 0.0)
        child.pid, child.started_s, child.due_s = pid, time.monotonic(), 0.0
        self._children[index] = child
        with os.fdopen(told_fd, "rb") as told:
            said = told.read()
        if said.startswith(b"http"):
            return said.decode()
        error = msgspec.json.decode(said) if said else None
        raise from_openai(error, status=500) if error else ServiceError(f"worker {index} ended at its start")

    def _watch(self) -> None:
        while True:
            seen = signal.sigtimedwait(WATCHED, self._pause_s())
            if seen is not None and seen.si_signo != signal.SIGCHLD:
                return
            self._reap()
            now_s = time.monotonic()
            for index, child in self._children.items():
                if child.due_s and child.due_s <= now_s:
                    self._replace(index, child)

    def _pause_s(self) -> float:
        now_s = time.monotonic()
        due = [child.due_s - now_s for child in self._children.values() if child.due_s]
        return max(0.0, min(due, default=60.0))

    def _reap(self) -> None:
        """Plan the replacement of every worker that ended; more slowly for one that does so again and again."""
        for index, child in self._children.items():
            if child.due_s or os.waitpid(child.pid, os.WNOHANG)[0] == 0:
                continue
            lasted_s = time.monotonic() - child.started_s
            child.pause_s = FIRST_PAUSE_S if lasted_s > LASTING_S else min(MAX_PAUSE_S, 2 * child.pause_s)
            child.due_s = time.monotonic() + child.pause_s
            log.error("worker %d (process %d) ended; another one starts", index, child.pid)

    def _replace(self, index: int, child: _Child) -> None:
        try:
            self._start(index, child)
        except SllmError as error:
            log.error("worker %d: %s", index, error.message)

    def _end(self) -> None:
        running = [child.pid for child in self._children.values() if not child.due_s]
        for pid in running:
            os.kill(pid, signal.SIGTERM)
        deadline_s = time.monotonic() + self._config.stop_grace_s + STOP_S
        for pid in running:
            while os.waitpid(pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline_s:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    break
                time.sleep(0.02)
        self._port.close()
        if self._ingest is not None:
            self._ingest.close()
        os.close(self._alive_fd)
        os.close(self._our_fd)
        shutil.rmtree(self._run_dir, ignore_errors=True)
