# SPDX-License-Identifier: Apache-2.0
"""Real metadata servers for tests: a SQLite file, Redis, etcd. A program that is missing is a failure."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from serverlessllm.metadata.access import ServerAccess
from serverlessllm.metadata.etcd import EtcdStore
from serverlessllm.metadata.location import parse_location
from serverlessllm.metadata.redis import RedisStore
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.metadata.store import MetadataStore

KEPT_CHANGES: Final = 100
CALL_TIMEOUT_S: Final = 2.0
START_S: Final = 30.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MetadataServer(Protocol):
    """What the contract suite asks of a server. `url` is for `metadata.url`; every key there begins with `namespace`.

    `trims_history`: whether the store keeps only the last KEPT_CHANGES changes by itself.
    """

    shortest_ttl_s: float
    trims_history: bool
    url: str
    namespace: str

    async def client(self) -> MetadataStore:
        """A new client, as another process would be."""

    def forget_history(self, revision: int) -> None:
        """Keep no changes up to this revision, where the store does not see to it by itself."""

    async def stop(self) -> None:
        """Close the clients."""


class SqliteServer:
    """One file; every client is a connection of its own."""

    shortest_ttl_s = 0.2
    trims_history = True
    namespace = ""

    def __init__(self, directory: Path) -> None:
        self.url = f"sqlite:{directory / 'metadata.sqlite'}"
        self._path = directory / "metadata.sqlite"
        self._clients: list[MetadataStore] = []

    async def client(self) -> MetadataStore:
        store = await SqliteStore.open(self._path, max_changes=KEPT_CHANGES, poll_s=0.02)
        self._clients.append(store)
        return store

    def forget_history(self, revision: int) -> None:
        """It trims its log itself."""

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()


class ServerProcess:
    """A server program on a port of its own, with its data in `directory`; it may be killed, paused and started."""

    def __init__(self, program: str, directory: Path, hosts: Sequence[str] = ()) -> None:
        """`hosts` are addresses to listen on beside loopback."""
        found = shutil.which(program)
        if found is None:
            raise FileNotFoundError(f"{program} is not installed; run scripts/install-system-packages.sh")
        self.program = found
        self.directory = directory
        self.hosts = ["127.0.0.1", *hosts]
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def argv(self) -> list[str]:
        """The command line."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, again on the same data, and wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self.argv(), stdout=log, stderr=log, cwd=self.directory)
        deadline_s = time.monotonic() + START_S
        while not self.is_ready():
            tail = (self.directory / "server.log").read_text(errors="replace")[-1000:]
            assert self.process.poll() is None and time.monotonic() < deadline_s, tail
            time.sleep(0.01)

    def pause(self) -> None:
        """SIGSTOP; returns when every thread has stopped."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        while any(" T " not in task.read_text() for task in self._tasks()):
            time.sleep(0.005)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _tasks(self) -> list[Path]:
        assert self.process is not None
        return list(Path(f"/proc/{self.process.pid}/task").glob("*/stat"))

    def kill(self) -> None:
        """`kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class RedisProcess(ServerProcess):
    """Redis with every write on disk before it is acknowledged."""

    def __init__(self, directory: Path, hosts: Sequence[str] = ()) -> None:
        super().__init__("redis-server", directory, hosts)

    def argv(self) -> list[str]:
        """No snapshots, an append-only file."""
        options = {
            "port": str(self.port),
            "bind": " ".join(self.hosts),
            "protected-mode": "no",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "databases": "256",
        }
        return [self.program, *(part for name, value in options.items() for part in (f"--{name}", value))]

    def is_ready(self) -> bool:
        """`PING`."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as link:
            link.sendall(b"PING\r\n")
            return link.recv(64).startswith(b"+PONG")
        return False


class EtcdProcess(ServerProcess):
    """One etcd member."""

    def __init__(self, directory: Path, hosts: Sequence[str] = ()) -> None:
        super().__init__("etcd", directory, hosts)
        self.peer_port = free_port()

    def argv(self) -> list[str]:
        """Short elections, so that the shortest lease is short."""
        client = ",".join(f"http://{host}:{self.port}" for host in self.hosts)
        peer = f"http://127.0.0.1:{self.peer_port}"
        options = {
            "name": "m",
            "data-dir": str(self.directory / "data"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"m={peer}",
            "heartbeat-interval": "20",
            "election-timeout": "200",
            "logger": "zap",
        }
        return [self.program, *(f"--{name}={value}" for name, value in options.items())]

    def is_ready(self) -> bool:
        """`/health`."""
        url = f"http://127.0.0.1:{self.port}/health"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1.0) as answer:
            return bool(answer.status == 200)
        return False

    def compact(self, revision: int) -> None:
        """Forget the changes up to `revision`."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v3/kv/compaction",
            data=json.dumps({"revision": str(revision)}).encode(),
        )
        with urllib.request.urlopen(request, timeout=START_S):
            pass


class RedisServer:
    """One database of a Redis process."""

    shortest_ttl_s = 0.2
    trims_history = True
    namespace = ""

    def __init__(self, process: RedisProcess, database: int) -> None:
        self.process = process
        self.url = f"redis://127.0.0.1:{process.port}/{database}"
        self._clients: list[MetadataStore] = []

    async def client(self) -> MetadataStore:
        store = await RedisStore.open(
            parse_location(self.url, Path()),
            ServerAccess(call_timeout_s=CALL_TIMEOUT_S),
            max_changes=KEPT_CHANGES,
            poll_s=0.05,
        )
        self._clients.append(store)
        return store

    def forget_history(self, revision: int) -> None:
        """It trims its log itself."""

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()


class EtcdServer:
    """One namespace of an etcd process."""

    shortest_ttl_s = 1.0
    trims_history = False

    def __init__(self, process: EtcdProcess, namespace: str) -> None:
        self.process = process
        self.url = f"etcd://127.0.0.1:{process.port}"
        self.namespace = namespace
        self._clients: list[MetadataStore] = []

    async def client(self) -> MetadataStore:
        store = await EtcdStore.open(
            parse_location(self.url, Path()),
            ServerAccess(call_timeout_s=CALL_TIMEOUT_S),
            namespace=self.namespace,
        )
        self._clients.append(store)
        return store

    def forget_history(self, revision: int) -> None:
        self.process.compact(revision)

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()
