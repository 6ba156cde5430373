# SPDX-License-Identifier: Apache-2.0
"""`sllm ingest` as its users run it: credentials, a directory shared with an agent, one service per directory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serverlessllm.clock import SystemClock
from serverlessllm.metadata.api_keys import mint_key
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import encode
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.types import Role
from support.ingest_process import IngestProcess
from support.platform import eventually
from support.tiny_checkpoints import write_hf_directory


@pytest.fixture
def process(tmp_path: Path) -> Iterator[IngestProcess]:
    with IngestProcess(tmp_path / "d") as running:
        yield running


async def store_key(data_path: Path, role: Role) -> str:
    """A key in the metadata store beside the service, as an orchestrator there would make it."""
    store = await SqliteStore.open(data_path / "metadata.sqlite")
    plaintext, record = mint_key("k", role, clock=SystemClock())
    await store.put(Keys.api_key(record.hash), encode(record))
    await store.close()
    return plaintext


@pytest.mark.parametrize(("role", "status"), [("node", 404), ("admin", 404), ("infer", 403)])
def test_api_keys_count_by_their_role(process: IngestProcess, role: Role, status: int) -> None:
    key = asyncio.run(store_key(process.data_path, role))
    answer = httpx.get(f"{process.server.url}/jobs/x", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == status
    assert httpx.get(f"{process.server.url}/jobs/x").status_code == 401


def test_job_of_the_service_alone_makes_an_artifact(process: IngestProcess, tmp_path: Path) -> None:
    job_id = process.submit(str(write_hf_directory(tmp_path / "hf"))).json()["id"]
    job = eventually(lambda: process.ended(job_id))
    assert job["state"] == "done"
    assert [path.name for path in (process.data_path / "artifacts").iterdir()] == [job["revision"]]


def test_second_service_on_the_directory_says_so_and_ends(process: IngestProcess) -> None:
    command = [sys.executable, "-m", "serverlessllm.cli.main", "ingest", "--data-dir", str(process.data_path)]
    second = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert "in use by another ingest service" in second.stderr
    assert "Traceback" not in second.stderr
