# SPDX-License-Identifier: Apache-2.0
"""The servers that are fetched from: nginx on loopback, a second one behind a throttled link, and an S3 server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

THROTTLED_HOST = "10.213.7.2"
NAMESPACE = "sllm-fetch"
LINK = "sllmfetch0"
READY_WITHIN_S = 20.0


def require_programs(*names: str) -> None:
    """Raises SystemExit(2) naming what is missing."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)}; run scripts/install-system-packages.sh bench")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def nginx(root: Path, *, namespace: str | None = None, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve `root`; yields the URL. `namespace`: the network that it runs in."""
    port = free_port()
    work = root.parent / f"nginx-{port}"
    work.mkdir()
    temporary = "".join(
        f"{name}_temp_path {work}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = work / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 2; pid {work}/pid; error_log {work}/error.log; user root;"
        "events { worker_connections 256; }"
        f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; {temporary}"
        f"server {{ listen {host}:{port}; root {root}; }} }}"
    )
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    process = subprocess.Popen([*inside, "nginx", "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        _wait_for(host, port, process)
        yield f"http://{host}:{port}"
    finally:
        process.terminate()
        process.wait(READY_WITHIN_S)
        shutil.rmtree(work, ignore_errors=True)


def _wait_for(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            socket.create_connection((host, port), 1.0).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nginx does not listen on {host}:{port}")


@contextmanager
def throttled_network(bytes_per_s: float) -> Iterator[str | None]:
    """A network of its own, whose link to us carries so much; yields its name, or None without the rights."""
    if os.geteuid() != 0 or shutil.which("tc") is None:
        yield None
        return
    try:
        _run(f"ip netns add {NAMESPACE}")
        _run(f"ip link add {LINK} type veth peer name eth0 netns {NAMESPACE}")
        _run(f"ip addr add 10.213.7.1/24 dev {LINK}")
        _run(f"ip link set {LINK} up")
        _run(f"ip netns exec {NAMESPACE} ip addr add {THROTTLED_HOST}/24 dev eth0")
        _run(f"ip netns exec {NAMESPACE} ip link set eth0 up")
        _run(
            f"ip netns exec {NAMESPACE} tc qdisc add dev eth0 root tbf "
            f"rate {int(bytes_per_s * 8)}bit burst 4mb latency 100ms"
        )
        yield NAMESPACE
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], capture_output=True)
        subprocess.run(["ip", "link", "del", LINK], capture_output=True)


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)
