# SPDX-License-Identifier: Apache-2.0
"""A directory behind nginx, reached over a link that carries so many bytes a second. Needs root, `ip`, `tc`, nginx.

The link is a veth pair into a network namespace, shaped by a token bucket: the server itself costs next to nothing,
and all connections share the rate, as they do at a real origin's door.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, Self

READY_WITHIN_S: Final = 20.0
BURST_BYTES: Final = 256 << 10
PORT: Final = 8080


class ThrottledOrigin:
    """Serves `root` while it is open; `set_rate` at any time. `url` has no slash at its end."""

    def __init__(self, root: Path, work: Path, *, name: str = "sllmstream", subnet: str = "10.213.8") -> None:
        """`work` is for nginx' own files; `name` is at most 12 characters, unique on the machine."""
        self._root = root
        self._work = work
        self._namespace = name
        self._link = f"{name}0"
        self._near, self._far = f"{subnet}.1", f"{subnet}.2"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://{self._far}:{PORT}"

    def set_rate(self, bytes_per_s: float) -> None:
        """All that is sent from now on."""
        self._inside(
            f"tc qdisc replace dev eth0 root tbf rate {int(bytes_per_s * 8)}bit burst {BURST_BYTES} latency 50ms"
        )

    def __enter__(self) -> Self:
        if os.geteuid() != 0 or any(shutil.which(program) is None for program in ("ip", "tc", "nginx")):
            raise SystemExit("a throttled origin needs root, ip, tc and nginx; see the benchmark's README")
        self._run(f"ip netns add {self._namespace}")
        self._run(f"ip link add {self._link} type veth peer name eth0 netns {self._namespace}")
        self._run(f"ip addr add {self._near}/24 dev {self._link}")
        self._run(f"ip link set {self._link} up")
        self._inside(f"ip addr add {self._far}/24 dev eth0")
        self._inside("ip link set eth0 up")
        self._start_nginx()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(READY_WITHIN_S)
        subprocess.run(["ip", "netns", "del", self._namespace], capture_output=True)
        subprocess.run(["ip", "link", "del", self._link], capture_output=True)

    def _start_nginx(self) -> None:
        self._work.mkdir(parents=True, exist_ok=True)
        config = self._work / "nginx.conf"
        temporary = "".join(
            f"{kind}_temp_path {self._work}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            f"daemon off; worker_processes 1; pid {self._work}/pid; error_log {self._work}/error.log; user root;"
            "events { worker_connections 256; }"
            f"http {{ access_log off; sendfile on; keepalive_requests 1000000; {temporary}"
            f"server {{ listen {self._far}:{PORT}; root {self._root}; }} }}"
        )
        command = ["ip", "netns", "exec", self._namespace, "nginx", "-c", str(config)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            try:
                socket.create_connection((self._far, PORT), 1.0).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"nginx does not listen on {self.url}; see {self._work}/error.log")

    def _inside(self, command: str) -> None:
        self._run(f"ip netns exec {self._namespace} {command}")

    def _run(self, command: str) -> None:
        done = subprocess.run(command.split(), capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{command}: {done.stderr.strip()}")
