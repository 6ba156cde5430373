# SPDX-License-Identifier: Apache-2.0
"""A network of hosts on one machine: a bridge, and a namespace with an address of its own for every node.

Cutting a node takes its link down: packets vanish both ways and no connection is reset, as when a cable is pulled.
Needs root and `ip`. Knows no processes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

_IP: Final = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "ip"


@dataclass(frozen=True)
class Host:
    """A node's place: processes started through `launcher` are at `address`; `link` is its end on the bridge."""

    namespace: str
    address: str
    link: str

    @property
    def launcher(self) -> tuple[str, ...]:
        """Words before a command that make it run there."""
        return (_IP, "netns", "exec", self.namespace)


class Network:
    """Use as a context manager. `gateway` is our own address on it; names and addresses carry our process id."""

    def __init__(self) -> None:
        pid = os.getpid()
        self._prefix = f"sl{pid}"
        self._subnet = f"10.{64 + (pid >> 8) % 128}.{pid % 256}"
        self._hosts: list[Host] = []
        self.gateway = f"{self._subnet}.1"

    def __enter__(self) -> Self:
        _remove_leftovers()
        bridge = f"{self._prefix}b"
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{self.gateway}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self._hosts:
            _ip("link", "delete", host.link)
            _ip("netns", "delete", host.namespace)
        _ip("link", "delete", f"{self._prefix}b")

    def add_host(self) -> Host:
        """One more node, connected."""
        number = len(self._hosts)
        host = Host(
            f"{self._prefix}n{number}", f"{self._subnet}.{number + 2}", link=f"{self._prefix}v{number}"
        )
        inner = f"{self._prefix}i{number}"
        _ip("netns", "add", host.namespace)
        self._hosts.append(host)
        _ip("link", "add", host.link, "type", "veth", "peer", "name", inner, "netns", host.namespace)
        _ip("link", "set", host.link, "master", f"{self._prefix}b", "up")
        _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", inner)
        _ip("-n", host.namespace, "link", "set", inner, "up")
        _ip("-n", host.namespace, "link", "set", "lo", "up")
        return host

    def cut(self, host: Host) -> None:
        """Nothing gets to the node or away from it."""
        _ip("link", "set", host.link, "down")

    def mend(self, host: Host) -> None:
        """Connected again."""
        _ip("link", "set", host.link, "up")


def require_namespaces() -> None:
    """Skip the test where namespaces cannot be made, saying why; under CI that is a failure."""
    name = f"sl{os.getpid()}probe"
    try:
        _ip("netns", "add", name)
        _ip("netns", "delete", name)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = f"network namespaces cannot be made here (root and iproute2 are needed): {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def _remove_leftovers() -> None:
    """What runs that were killed have left behind."""
    spaces = {path.name for path in Path("/run/netns").glob("sl*")} if Path("/run/netns").is_dir() else set()
    links = {path.name for path in Path("/sys/class/net").glob("sl*")}
    for name in spaces | links:
        match = re.fullmatch(r"sl(\d+)(b|[nv]\d+|probe)", name)
        if match and not Path(f"/proc/{match[1]}").exists():
            words = ("netns", "delete") if name in spaces else ("link", "delete")
            subprocess.run([_IP, *words, name], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run([_IP, *words], check=True, capture_output=True)
