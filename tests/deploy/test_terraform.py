# SPDX-License-Identifier: Apache-2.0
"""Terraform: what needs no provider is validated, tested and rendered through the chart; the rest is parsed.

Providers of clouds, of helm and of kubernetes cannot be fetched here, so that the root module and the examples are
formatted and parsed, and their calls are compared with the variables of what they call. docs/kubernetes.md says so.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest

from support.helm_chart import REPOSITORY, pod_specs, render, tool

TERRAFORM = REPOSITORY / "deploy" / "terraform"
MODULES = ["", "modules/values", "examples/aws", "examples/gcp"]


def terraform(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command without colours."""
    command = [tool("terraform"), f"-chdir={directory}", *arguments]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "CHECKPOINT_DISABLE": "1", "NO_COLOR": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def values_module(tmp_path: Path) -> Path:
    """A copy that is initialised: the module makes files beside itself."""
    copy = tmp_path / "values"
    shutil.copytree(TERRAFORM / "modules" / "values", copy)
    done = terraform(copy, "init", "-backend=false")
    assert done.returncode == 0, done.stderr
    return copy


def test_everything_is_formatted() -> None:
    done = terraform(TERRAFORM, "fmt", "-check", "-recursive", "-diff")
    assert done.returncode == 0, done.stdout


def test_values_module_is_valid_and_passes_its_own_tests(values_module: Path) -> None:
    assert terraform(values_module, "validate").returncode == 0
    done = terraform(values_module, "test")
    assert done.returncode == 0 and "0 failed" in done.stdout, done.stdout + done.stderr


def test_made_values_render_the_chart(values_module: Path) -> None:
    variables = values_module / "terraform.tfvars"
    variables.write_text(
        """
        artifacts_url = "s3://models/artifacts"
        hosts         = ["llm.example.com"]
        monitoring    = true
        service_account_annotations = { agent = { "eks.amazonaws.com/role-arn" = "arn:aws:iam::1:role/a" } }
        pools = {
          cpu = { kind = "StatefulSet" }
          gpu = { gpus = 1, nvme_path = "/mnt/nvme/sllm", huge_pages = true, node_selector = { pool = "gpu" } }
        }
        """
    )
    assert terraform(values_module, "apply", "-auto-approve").returncode == 0
    made = values_module / "made.yaml"
    made.write_text(terraform(values_module, "output", "-raw", "yaml").stdout)
    names = [name for name, _ in pod_specs(render(made))]
    assert {"r-serverlessllm-agent-cpu", "r-serverlessllm-agent-gpu"} < set(names)


def parsed(module: str) -> dict[str, Any]:
    """All files of a module as one document."""
    document: dict[str, Any] = {}
    for path in sorted((TERRAFORM / module).glob("*.tf")):
        for key, items in hcl2.loads(path.read_text()).items():
            document.setdefault(key, []).extend(items)
    return document


def named(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Blocks by their label, without the quotes that the parser keeps."""
    return {name.strip('"'): body for block in blocks for name, body in block.items()}


@pytest.mark.parametrize("module", MODULES)
def test_module_is_parsed_and_every_variable_says_what_it_is(module: str) -> None:
    for name, body in named(parsed(module).get("variable", [])).items():
        assert body.get("description"), name


@pytest.mark.parametrize(
    ("caller", "called"), [("", "modules/values"), ("examples/aws", ""), ("examples/gcp", "")]
)
def test_call_of_a_module_gives_what_it_needs_and_nothing_unknown(caller: str, called: str) -> None:
    [call] = named(parsed(caller)["module"]).values()
    variables = named(parsed(called)["variable"])
    given = {key for key in call if not key.startswith("__")} - {"source", "depends_on"}
    needed = {name for name, body in variables.items() if "default" not in body}
    assert needed <= given <= set(variables)
