# SPDX-License-Identifier: Apache-2.0
"""Dockerfiles and the try-out, as far as a machine without a container runtime can tell.

Linted by hadolint and shellcheck; base images by variable; settings that our processes understand. The install steps
run in a clean environment: `test_image_install.py`, nightly. No image is built here: the workflow `check` does that.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serverlessllm import config
from support.helm_chart import REPOSITORY, tool

DOCKER = REPOSITORY / "deploy" / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
OURS = ("ingest", "orchestrator", "node1", "node2", "node3")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfile_is_linted(path: Path) -> None:
    done = subprocess.run([tool("hadolint"), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfile_runs_unprivileged_from_images_by_variable(path: Path) -> None:
    text = path.read_text()
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.M)
    names = {name for _, name in stages if name}
    assert all(base in names or re.fullmatch(r"\$\{(PYTHON|CUDA)_IMAGE\}", base) for base, _ in stages)
    assert re.findall(r"^ARG (?:PYTHON|CUDA)_IMAGE=", text, re.M) == []
    assert re.findall(r"^USER (\S+)$", text, re.M)[-1] == "10001:10001"
    assert "HEALTHCHECK" in text and "STOPSIGNAL SIGTERM" in text


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_our_processes_understand_the_images_environment(path: Path) -> None:
    set_there = dict(re.findall(r"(SLLM_\w+)=(\S+)", path.read_text()))
    assert config.load(env=set_there).data_dir == "/var/lib/serverlessllm"


def test_scripts_are_linted() -> None:
    scripts = [str(path) for path in DOCKER.glob("*.sh")]
    done = subprocess.run([tool("shellcheck"), *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_pin_writes_a_digest_for_every_image_and_refuses_another_answer() -> None:
    digest = "sha256:" + "0" * 64
    env = {"PATH": "/usr/bin:/bin", "INSPECT": f"echo {digest}; true"}
    done = subprocess.run([str(DOCKER / "pin.sh")], env=env, capture_output=True, text=True, check=True)
    names = re.findall(r"^([A-Z0-9_]+)=", (DOCKER / "images.env").read_text(), re.M)
    assert re.findall(rf"^(\w+)=\S+@{digest}$", done.stdout, re.M) == names
    wrong = subprocess.run(
        [str(DOCKER / "pin.sh")], env={**env, "INSPECT": "echo latest; true"}, capture_output=True
    )
    assert wrong.returncode != 0


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return document


def test_try_out_is_valid_and_names_only_images_of_the_list() -> None:
    command = [
        tool("check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        str(DOCKER / "compose.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    asked = set(re.findall(r"\$\{([A-Z0-9]+_IMAGE)", (DOCKER / "compose.yaml").read_text()))
    assert asked < set(re.findall(r"^([A-Z0-9_]+)=", (DOCKER / "images.env").read_text(), re.M))


@pytest.mark.parametrize("name", OURS)
def test_try_outs_processes_understand_their_settings(name: str) -> None:
    service = compose()["services"][name]
    effective = config.load(env={key: str(value) for key, value in service["environment"].items()})
    assert effective.metadata.url == "redis://redis:6379"
    if name.startswith("node"):
        assert effective.agent.advertise == f"http://{service['hostname']}:8344"
