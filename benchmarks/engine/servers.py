# SPDX-License-Identifier: Apache-2.0
"""Ours and the peers, each a process that answers `/v1/completions` of one model. Measures nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import IO

import httpx

from benchmarks._harness.line_process import QUIET_ENV
from benchmarks._harness.report import ROOT
from serverlessllm.engine.vllm_server.environment import find_environment, is_built
from serverlessllm.sdk.local_server import LocalServer

HERE = Path(__file__).resolve().parent
START_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Server:
    """`takes_lists`: a batch is one request with all prompts, else one request for each."""

    name: str
    url: str
    pid: int
    model: str
    takes_lists: bool = False


def ours(server: LocalServer, model: str) -> Server:
    """The platform with its `torch` engine, orchestrator and agent included."""
    return Server("ours", f"{server.url}/v1/completions", server.pid, model)


@contextmanager
def transformers(hf_dir: Path, dtype: str, num_threads: int) -> Iterator[Server]:
    """`generate` over padded batches."""
    command = [sys.executable, str(HERE / "transformers_server.py"), str(hf_dir), dtype, str(num_threads)]
    with _process(command, dict(QUIET_ENV), stdout=PIPE) as process:
        if process.stdout is None:
            raise RuntimeError("the transformers server has no pipe")
        port = json.loads(process.stdout.readline())["port"]
        yield Server("transformers", f"http://127.0.0.1:{port}", process.pid, "", takes_lists=True)


@contextmanager
def vllm(hf_dir: Path, dtype: str, num_threads: int, *, is_compiled: bool) -> Iterator[Server]:
    """vLLM as its users start it: own loader, own tokenizer, from the checkpoint's directory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(
            str(find_environment("").python),
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            str(hf_dir),
        ),
        *("--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype),
        *("--max-model-len", "2048", "--max-num-seqs", "32", "--no-enable-prefix-caching"),
        *(() if is_compiled else ("--enforce-eager",)),
    ]
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(num_threads),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with (ROOT / ".demo" / "vllm.log").open("wb") as log, _process(command, variables, stdout=log) as process:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not _is_healthy(port):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"vLLM did not start; see {log.name}")
            time.sleep(0.5)
        yield Server("vllm", f"http://127.0.0.1:{port}/v1/completions", process.pid, "m")


def has_vllm() -> bool:
    """Whether `make engines` was run."""
    return is_built("")


def _is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def _process(
    command: list[str], variables: dict[str, str], *, stdout: IO[bytes] | int
) -> Iterator[Popen[bytes]]:
    process = Popen(command, env=variables, stdout=stdout, stderr=None if stdout == PIPE else STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
