# SPDX-License-Identifier: Apache-2.0
"""The built wheel: whole, and (nightly) a platform that answers from an environment that has nothing else."""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support.model_dirs import write_simulated, write_tiny_llama
from support.platform import PATIENCE_S
from support.wheel import REPOSITORY, CleanEnvironment, build_wheel

SMALL = ("--arena-budget-bytes=64MiB", "--engine-threads=1")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_wheel_carries_every_file_that_the_programs_need(wheel: Path) -> None:
    source = REPOSITORY / "src"
    wanted = {
        str(path.relative_to(source))
        for path in (source / "serverlessllm").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        assert wanted <= set(archive.namelist())


@contextmanager
def serving(environment: CleanEnvironment, home: Path) -> Iterator[tuple[str, Path]]:
    """`sllm serve` out of the environment: its URL, and its log."""
    home.mkdir()
    log = home / "log"
    command = [str(environment.sllm), "serve", "--json", "--port=0", f"--data-dir={home / 'd'}", *SMALL]
    with log.open("w") as stderr:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, env=environment.env, cwd=home
        )
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        assert line, log.read_text()
        yield json.loads(line)["url"], log
    finally:
        server.terminate()
        assert server.wait(PATIENCE_S) == 0
        server.stdout.close()


def chat(environment: CleanEnvironment, url: str, name: str, source: Path, engine: str) -> httpx.Response:
    """Register by the installed command, then call as any client."""
    added = environment.run(
        str(environment.sllm), "model", "add", name, str(source), "--engine", engine, "--url", url
    )
    assert added.returncode == 0, added.stderr
    body = {"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_S)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_wheel_alone_serves_and_names_the_extra_that_models_need(wheel: Path, tmp_path: Path) -> None:
    environment = CleanEnvironment(tmp_path / "venv")
    environment.pip(str(wheel))
    assert environment.run(str(environment.python), "-c", "import torch").returncode != 0
    with serving(environment, tmp_path / "home") as (url, log):
        assert "serverlessllm[engine]" in log.read_text()
        answer = chat(environment, url, "sim", write_simulated(tmp_path / "sim"), "simulated")
        assert answer.json()["usage"]["completion_tokens"] == 4
        refused = chat(environment, url, "llama", write_tiny_llama(tmp_path / "llama"), "torch")
        assert refused.status_code == 503 and "serverlessllm[engine]" in refused.json()["error"]["message"]


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_wheel_with_the_engine_serves_a_model(wheel: Path, tmp_path: Path) -> None:
    environment = CleanEnvironment(tmp_path / "venv")
    environment.pip("torch==2.13.0", f"{wheel}[engine]")
    with serving(environment, tmp_path / "home") as (url, log):
        assert "no torch" not in log.read_text()
        answer = chat(environment, url, "llama", write_tiny_llama(tmp_path / "llama"), "torch")
        assert answer.json()["usage"]["completion_tokens"] == 4
