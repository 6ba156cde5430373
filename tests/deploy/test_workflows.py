# SPDX-License-Identifier: Apache-2.0
"""The workflows: linted, valid by GitHub's schema, with no more rights than they name."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.helm_chart import REPOSITORY, tool

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
BY_NAME = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> dict[Any, Any]:
    document: dict[Any, Any] = yaml.safe_load(path.read_text())
    return document


def test_workflows_are_linted_and_valid() -> None:
    lint = subprocess.run(
        [tool("actionlint"), *map(str, WORKFLOWS)], capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@BY_NAME
def test_workflow_writes_nothing_by_default_and_ends_in_time(path: Path) -> None:
    document = read(path)
    assert document["permissions"]["contents"] == "read"
    for name, job in document["jobs"].items():
        if name != "models":  # lists names
            assert job["timeout-minutes"] <= 300


def test_release_signs_every_image_and_carries_boms() -> None:
    text = (REPOSITORY / ".github" / "workflows" / "release.yml").read_text()
    roles = read(REPOSITORY / ".github" / "workflows" / "release.yml")["jobs"]["images"]["strategy"][
        "matrix"
    ]["role"]
    dockerfiles = {
        path.name.removesuffix(".Dockerfile")
        for path in (REPOSITORY / "deploy" / "docker").glob("*.Dockerfile")
    }
    assert set(roles) == dockerfiles
    assert "cosign sign" in text and "sbom: true" in text and "cyclonedx" in text


def test_chart_and_package_have_one_version() -> None:
    package = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    chart = read(REPOSITORY / "deploy" / "helm" / "serverlessllm" / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (package, package)
