# SPDX-License-Identifier: Apache-2.0
"""The programs that tests of deploy/ run, the chart rendered by a real helm, and what tests ask of its objects."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

REPOSITORY: Final = Path(__file__).parents[2]
CHART: Final = REPOSITORY / "deploy" / "helm" / "serverlessllm"
VALUES: Final = sorted((REPOSITORY / "tests" / "deploy" / "values").glob("*.yaml"))
TOOLS: Final = REPOSITORY / ".demo" / "tools"

Object = dict[str, Any]


def tool(name: str) -> str:
    """The program's path; without it the test is skipped, in CI it fails. Both say how to get it."""
    places = (str(TOOLS), str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is not None:
        return found
    advice = f"{name} is missing: run `make deploy-tools`"
    if os.environ.get("CI"):
        pytest.fail(advice)
    pytest.skip(advice)


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm; look at its status yourself."""
    command = [tool("helm"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def render(values: Path, *arguments: str) -> list[Object]:
    """All objects of the chart with these values."""
    done = helm("template", "r", CHART, "--namespace", "llm", "--values", values, *arguments)
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """The name of each workload, and its pods."""
    for item in objects:
        if item["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def named(objects: list[Object], kind: str, name: str) -> Object:
    """One object."""
    return next(item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name))
