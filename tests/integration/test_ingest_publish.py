# SPDX-License-Identifier: Apache-2.0
"""Artifacts published to a real S3 server: whole, once, and known to the model as a place to take bytes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from benchmarks._harness.seaweed import BUCKET, Seaweed

from serverlessllm.checkpoint.reader import Artifact
from support.ingest_server import ingest_server
from support.model_dirs import write_simulated
from support.plain_reader import read_tensors
from support.platform import Platform
from support.tiny_checkpoints import write_hf_directory


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(autouse=True)
def account(s3: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)


def objects(s3: Seaweed, prefix: str) -> dict[str, int]:
    """Name → size below a prefix of the bucket."""
    found = [item for batch in obstore.list(s3.store(), prefix) for item in batch]
    return {item["path"].removeprefix(f"{prefix}/"): item["size"] for item in found}


async def test_published_artifact_is_whole_and_can_be_a_source(s3: Seaweed, tmp_path: Path) -> None:
    source = write_hf_directory(tmp_path / "hf")
    async with ingest_server(tmp_path / "data") as first:
        job = await first.run(str(source), publish=f"s3://{BUCKET}/one")
        again = await first.run(str(source), publish=f"s3://{BUCKET}/one")
    assert (job.state, job.origins) == ("done", [f"s3://{BUCKET}/one/{job.revision}"]), job.error
    assert (again.state, again.origins) == ("done", job.origins)
    artifact = tmp_path / "data" / "artifacts" / (job.revision or "")
    assert objects(s3, f"one/{job.revision}") == {p.name: p.stat().st_size for p in artifact.iterdir()}
    async with ingest_server(tmp_path / "elsewhere") as second:
        back = await second.run(job.origins[0])
    assert (back.state, back.revision) == ("done", job.revision), back.error
    assert read_tensors(tmp_path / "elsewhere" / "artifacts" / (back.revision or "")) == read_tensors(
        artifact
    )


async def test_bucket_that_may_not_be_written_fails_the_job_and_keeps_the_artifact(
    s3: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with ingest_server(tmp_path / "data", publish=f"s3://{BUCKET}/two") as server:
        job = await server.run(str(write_hf_directory(tmp_path / "hf")))
    assert job.state == "failed" and job.error is not None
    assert job.error["code"] == "permission_denied"
    [artifact] = server.artifacts.iterdir()
    Artifact.open(artifact, expect_revision=artifact.name)


def test_model_knows_where_its_artifact_was_published(s3: Seaweed, tmp_path: Path) -> None:
    with Platform(tmp_path, ingest_publish=f"s3://{BUCKET}/three") as platform:
        platform.add("m", write_simulated(tmp_path / "m"))
        with platform.client() as client:
            view = client.get_model("m")
        assert view.origins == [f"s3://{BUCKET}/three/{view.revision}"]
        assert platform.chat("m", max_tokens=2).status_code == 200
