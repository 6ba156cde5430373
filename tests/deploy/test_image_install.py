# SPDX-License-Identifier: Apache-2.0
"""The images' install steps in a clean environment: `deploy/docker/install.sh`, as the Dockerfiles run it.

No container runtime runs here, so that this is what can be executed of an image: its environment, from the wheel.
The CUDA image's environments need NVIDIA's packages (gigabytes) and are not made here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.wheel import REPOSITORY, build_wheel

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage `installed` has in /src."""
    directory = tmp_path_factory.mktemp("src")
    (directory / "dist").mkdir()
    shutil.copy(build_wheel(tmp_path_factory.mktemp("wheel")), directory / "dist")
    shutil.copy(REPOSITORY / "constraints.txt", directory)
    return directory


def install(role: str, destination: Path, source: Path) -> dict[str, str]:
    """Run the step; what a container of it would see."""
    script = REPOSITORY / "deploy" / "docker" / "install.sh"
    env = {**os.environ, "TORCH_INDEX_URL": ""}
    done = subprocess.run(
        [script, role, destination, source], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {"PATH": f"{destination / 'bin'}:/usr/bin:/bin", "HOME": str(destination)}


def has(env: dict[str, str], module: str) -> bool:
    return subprocess.run(["python3", "-c", f"import {module}"], env=env, capture_output=True).returncode == 0


def test_control_planes_environment_runs_without_torch(source: Path, tmp_path: Path) -> None:
    env = install("control-plane", tmp_path / "sllm", source)
    assert not has(env, "torch") and not has(env, "pip")
    assert all(
        has(env, module) for module in ("redis", "obstore", "gguf", "huggingface_hub", "opentelemetry.sdk")
    )
    for role in ("orchestrator", "ingest"):
        shown = subprocess.run(["sllm", role, "--help"], env=env, capture_output=True, text=True, check=True)
        assert "--metadata-url" in shown.stdout
    size = subprocess.run(["du", "-sm", tmp_path / "sllm"], capture_output=True, text=True, check=True)
    assert int(size.stdout.split()[0]) < 700, size.stdout


def test_cpu_agents_environment_has_its_engine(source: Path, tmp_path: Path) -> None:
    env = install("agent-cpu", tmp_path / "sllm", source)
    assert has(env, "torch") and has(env, "obstore") and not has(env, "gguf")
    shown = subprocess.run(["sllm", "agent", "--help"], env=env, capture_output=True, text=True, check=True)
    assert "--engine-device" in shown.stdout
