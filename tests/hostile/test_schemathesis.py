# SPDX-License-Identifier: Apache-2.0
"""The API against its own schema: schemathesis makes the requests up, nothing may answer with a 5xx."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.model_dirs import write_simulated
from support.platform import Platform

SEED = 20261124
MAX_EXAMPLES = 25


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform(tmp_path, orchestrator_hold_timeout_s="2") as running:
        running.add("m", write_simulated(tmp_path / "m"))
        yield running


@pytest.mark.timeout(180)
def test_no_request_that_the_schema_allows_or_forbids_breaks_the_server(platform: Platform) -> None:
    with platform.client() as client:
        secret = client.create_key("fuzz", "admin").secret
    bearer = f"Bearer {secret}"
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{platform.url}/openapi.json"]
    options = ["--checks", "not_a_server_error", "--seed", str(SEED), "--max-examples", str(MAX_EXAMPLES)]
    options += ["--header", f"Authorization: {bearer}"]
    limits = [
        "--phases",
        "examples,coverage,fuzzing",
        "--workers",
        "1",
        "--request-timeout",
        "20",
        "--mode",
        "all",
    ]
    done = subprocess.run([*command, *options, *limits], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout[:6000]
    health = httpx.get(f"{platform.url}/readyz")
    assert health.status_code == 200, health.text
