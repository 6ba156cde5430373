# SPDX-License-Identifier: Apache-2.0
"""A network of its own behind a link that carries so many bytes a second, over however many connections.

A veth pair; the far end leaves through a token bucket (`tc … tbf`), so that the limit holds for the link, as a slow
uplink's does, and TCP meets a full queue and not a server that sleeps. Needs root, `ip` and `tc`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

BURST_BYTES = 4 << 20


class Link:
    """`namespace` is the network of the far end, `host` its address, as seen from here too."""

    def __init__(self, number: int, bytes_per_s: float) -> None:
        """`number` (0…255) tells links that exist at the same time apart."""
        self.namespace = f"sllm-fetch{number}"
        self.host = f"10.213.{number}.2"
        self.bytes_per_s = bytes_per_s
        self._near = f"sllmfetch{number}"
        self._near_host = f"10.213.{number}.1"

    def __enter__(self) -> Self:
        try:
            for command in self._commands():
                subprocess.run(command.split(), check=True, capture_output=True)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _commands(self) -> list[str]:
        inside = f"ip netns exec {self.namespace}"
        return [
            f"ip netns add {self.namespace}",
            f"ip link add {self._near} type veth peer name eth0 netns {self.namespace}",
            f"ip addr add {self._near_host}/24 dev {self._near}",
            f"ip link set {self._near} up",
            f"{inside} ip addr add {self.host}/24 dev eth0",
            f"{inside} ip link set eth0 up",
            f"{inside} tc qdisc add dev eth0 root tbf rate {int(self.bytes_per_s * 8)}bit "
            f"burst {BURST_BYTES} latency 100ms",
        ]

    def _remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True)
        subprocess.run(["ip", "link", "del", self._near], capture_output=True)


def can_be_made() -> bool:
    """Whether this process may make links."""
    return os.geteuid() == 0 and all(map(shutil.which, ("ip", "tc")))
