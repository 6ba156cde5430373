# SPDX-License-Identifier: Apache-2.0
"""What the workflow `convert model` runs, against a real S3 server: the artifact lies there, a bad source fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from benchmarks._harness.seaweed import BUCKET, Seaweed

from support.helm_chart import REPOSITORY
from support.tiny_checkpoints import write_hf_directory


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("s3")) as server:
        yield server


def convert(s3: Seaweed, model: str, publish: str) -> subprocess.CompletedProcess[str]:
    """As the workflow calls it."""
    env = {**os.environ, **s3.environment, "SLLM_INGEST_PUBLISH": publish}
    command = [sys.executable, str(REPOSITORY / "deploy" / "convert_model.py"), model]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_model_is_converted_and_its_artifact_is_stored(s3: Seaweed, tmp_path: Path) -> None:
    done = convert(s3, f"{write_hf_directory(tmp_path / 'hf')} float32", f"s3://{BUCKET}/models")
    assert done.returncode == 0, done.stderr
    revision = done.stdout.partition(f"s3://{BUCKET}/models/")[2][:32]
    stored = {item["path"] for batch in obstore.list(s3.store(), f"models/{revision}") for item in batch}
    assert {f"models/{revision}/model.idx", f"models/{revision}/model.bin"} <= stored


def test_source_that_is_not_there_fails_the_step_and_says_why(s3: Seaweed, tmp_path: Path) -> None:
    done = convert(s3, str(tmp_path / "missing"), f"s3://{BUCKET}/models")
    assert done.returncode == 1 and "missing" in done.stderr
    assert convert(s3, "a b c", "s3://b").returncode == 2
