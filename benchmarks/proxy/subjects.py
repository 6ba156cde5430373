# SPDX-License-Identifier: Apache-2.0
"""The proxies that are compared, each in front of the same backend, as its own documentation says to start it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks._harness.report import ROOT
from benchmarks.proxy.load import Target
from benchmarks.proxy.stub import MODEL, REVISION
from serverlessllm.metadata.api_keys import hash_key
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import AgentRecord, KeyRecord, ModelRecord, encode
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.wire import WIRE_VERSION

START_S = 60.0
KEY = "sllm-benchmark-key"
LITELLM_KEY = "sk-5c1f8d0b6a3e4f7291d8c0a7b6e5f4d3"
_NGINX = """
daemon off; worker_processes 1; error_log {home}/error.log; pid {home}/pid;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s; keepalive_requests 1000000;
  upstream backend {{ server {backend}; keepalive 600; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
    proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }}
}}
"""
_LITELLM = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "http://{backend}/v1", api_key: none}}
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """A running proxy; `pid` is the process whose tree is measured, None for none (direct)."""

    name: str
    target: Target
    pid: int | None


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cores() -> tuple[set[int], set[int]]:
    """(the proxy's one core, the others for backend and client)."""
    every = sorted(os.sched_getaffinity(0))
    return {every[0]}, set(every[1:] or every)


@contextmanager
def process(
    argv: list[str],
    log: Path,
    affinity: set[int] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A child on its cores (all, unless told), ended with its whole group."""
    with log.open("wb") as out:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, affinity or os.sched_getaffinity(0)),
        )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@contextmanager
def backend(home: Path) -> Iterator[str]:
    """The stub; its `host:port`."""
    port = free_port()
    with process([sys.executable, "-m", "benchmarks.proxy.stub", str(port)], home / "stub.log", cores()[1]):
        _await(f"http://127.0.0.1:{port}/health", home / "stub.log")
        yield f"127.0.0.1:{port}"


def _await(url: str, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError as error:
            if time.monotonic() > deadline_s:
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{url} does not answer: {error}; the end of its log:\n{tail}") from error
            time.sleep(0.1)


@contextmanager
def direct(backend: str, home: Path) -> Iterator[Subject]:
    """No proxy at all."""
    yield Subject("direct", Target(f"http://{backend}"), None)


@contextmanager
def ours(backend: str, home: Path) -> Iterator[Subject]:
    """`sllm orchestrator` with authentication, metrics and resume on, as by default; the backend is its agent."""
    data = home / "ours"
    asyncio.run(_register(data, backend))
    server = LocalServer(data, command="orchestrator", env={"SLLM_SECRET": "benchmark"})
    mask = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores()[0])
    try:
        server.start()
    finally:
        os.sched_setaffinity(0, mask)
    try:
        _await(f"{server.url}/readyz", server.log_path)
        yield Subject("ours", Target(server.url, KEY), server.pid)
    finally:
        server.stop()


async def _register(data: Path, backend: str) -> None:
    data.mkdir(parents=True)
    store = await SqliteStore.open(data / "metadata.sqlite")
    model = ModelRecord(
        name=MODEL,
        state="ready",
        engine="torch",
        source="/bench",
        created_at_s=1.0,
        revision=REVISION,
        artifact=f"/artifacts/{REVISION}",
        nbytes=100,
    )
    await store.put(Keys.model(MODEL), encode(model))
    agent = AgentRecord(
        id="stub",
        address=f"http://{backend}",
        wire_version=WIRE_VERSION,
        devices=("cpu",),
        engines=("torch",),
        memory_bytes=1 << 30,
    )
    await store.put(Keys.agent("stub"), encode(agent))
    hashed = hash_key(KEY)
    key = KeyRecord(
        id="bench", name="bench", hash=hashed, role="admin", created_at_s=1.0, shown_prefix=KEY[:8]
    )
    await store.put(Keys.api_key(hashed), encode(key))
    await store.close()


@contextmanager
def nginx(backend: str, home: Path) -> Iterator[Subject]:
    """One worker, kept upstream connections, no buffering."""
    port = free_port()
    config = home / "nginx.conf"
    (home / "nginx").mkdir()
    config.write_text(_NGINX.format(home=home / "nginx", backend=backend, port=port))
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or ""
    with process([binary, "-c", str(config)], home / "nginx.log", cores()[0]) as child:
        _await(f"http://127.0.0.1:{port}/health", home / "nginx.log")
        yield Subject("nginx", Target(f"http://127.0.0.1:{port}"), child.pid)


@contextmanager
def sglang_router(backend: str, home: Path) -> Iterator[Subject]:
    """Round robin over the one backend; its threads share the one core."""
    with _router("sglang_router", "sglang_router.launch_router", backend, home) as subject:
        yield subject


@contextmanager
def vllm_router(backend: str, home: Path) -> Iterator[Subject]:
    """The same of its fork."""
    with _router("vllm_router", "vllm_router.launch_router", backend, home) as subject:
        yield subject


@contextmanager
def _router(name: str, module: str, backend: str, home: Path) -> Iterator[Subject]:
    port, metrics = free_port(), free_port()
    argv = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--worker-urls", f"http://{backend}", "--policy", "round_robin"]
    argv += ["--prometheus-port", str(metrics), "--log-level", "error"]
    with process(argv, home / f"{name}.log", cores()[0]) as child:
        _await(f"http://127.0.0.1:{port}/health", home / f"{name}.log")
        yield Subject(name, Target(f"http://127.0.0.1:{port}"), child.pid)


@contextmanager
def litellm(backend: str, home: Path) -> Iterator[Subject]:
    """Its proxy with one worker. It is found as `litellm` on the path, or as LITELLM names it."""
    port = free_port()
    config = home / "litellm.yaml"
    config.write_text(_LITELLM.format(model=MODEL, backend=backend))
    argv = [_litellm(), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    env = {"LITELLM_MASTER_KEY": LITELLM_KEY, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with process(argv, home / "litellm.log", cores()[0], env) as child:
        _await(f"http://127.0.0.1:{port}/health/liveliness", home / "litellm.log")
        yield Subject("litellm", Target(f"http://127.0.0.1:{port}", LITELLM_KEY), child.pid)


def _litellm() -> str:
    return os.environ.get("LITELLM") or shutil.which("litellm") or ""


def installed() -> dict[str, bool]:
    """Which subjects can be started here."""
    return {
        "direct": True,
        "ours": True,
        "nginx": shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is not None,
        "sglang_router": find_spec("sglang_router") is not None,
        "vllm_router": find_spec("vllm_router") is not None,
        "litellm": bool(_litellm()),
    }


def start(names: list[str], backend: str, home: Path, stack: ExitStack) -> list[Subject]:
    """All of them, until the stack closes."""
    starters = {
        "direct": direct,
        "ours": ours,
        "nginx": nginx,
        "sglang_router": sglang_router,
        "vllm_router": vllm_router,
        "litellm": litellm,
    }
    return [stack.enter_context(starters[name](backend, home)) for name in names]
