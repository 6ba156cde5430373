# SPDX-License-Identifier: Apache-2.0
"""The web servers that are fetched from: nginx on loopback, or in a network behind a link (`link.py`)."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
