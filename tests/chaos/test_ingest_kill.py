# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of the ingest service at random points: the job ends as if nothing had been, and nothing is left over."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from serverlessllm.checkpoint.staging import PREFIX
from support.hub_objects import directory_files, hub_objects
from support.ingest_process import IngestProcess
from support.plain_reader import read_tensors
from support.platform import eventually
from support.ranged_server import RangedServer
from support.seeds import seeds
from support.tiny_checkpoints import write_hf_directory

MIB = 1 << 20
REPOSITORY = "org/model"
FETCH_BYTES_PER_S = 48 * MIB
KILLS_PER_JOB = 5
KILL_WITHIN_BYTES = 75 * MIB
"""A job writes 56 MiB of source files, which are kept, then 56 MiB of an artifact, which begins anew."""


def tensors() -> dict[str, npt.NDArray[np.float32]]:
    """56 MiB that are nowhere alike."""
    rng = np.random.default_rng(7)
    return {f"model.layers.{n}.w.weight": rng.standard_normal((256, 8192), np.float32) for n in range(7)}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangedServer]:
    source = write_hf_directory(tmp_path_factory.mktemp("source") / "hf", tensors())
    objects = hub_objects(REPOSITORY, directory_files(source))
    with RangedServer(objects, bytes_per_s=FETCH_BYTES_PER_S) as server:
        yield server


def visible(artifacts: Path) -> list[Path]:
    """What anybody but the writer looks at."""
    return [path for path in artifacts.iterdir() if not path.name.startswith(PREFIX)]


def written_bytes(process: IngestProcess) -> int:
    """What the job's child has written so far, as the kernel counts it."""
    total = 0
    for child in psutil.Process(process.server.pid).children():
        with suppress(psutil.NoSuchProcess):
            total += child.io_counters().write_chars
    return total


def check_killed_at(seed: int, hub: RangedServer, tmp_path: Path) -> None:
    """Several kills in one job's life, each when its child has written some part of all that it has to write."""
    rng = random.Random(seed)
    process = IngestProcess(tmp_path / "d", env={"HF_ENDPOINT": hub.url("")})
    artifacts, expected = tmp_path / "d" / "artifacts", {name: a.tobytes() for name, a in tensors().items()}
    with process:
        job_id = process.submit(f"hf://{REPOSITORY}").json()["id"]
        for _ in range(KILLS_PER_JOB):
            target_bytes = rng.randrange(KILL_WITHIN_BYTES)
            while written_bytes(process) < target_bytes and not process.ended(job_id):
                time.sleep(0.005)
            process.server.kill()
            for path in visible(artifacts):
                assert read_tensors(path) == expected, f"seed {seed}: a broken artifact is visible"
            process.server.start()
        job = eventually(lambda: process.ended(job_id))
        assert job["state"] == "done", (seed, job["error"])
        assert read_tensors(artifacts / job["revision"]) == expected, f"seed {seed}"
        eventually(lambda: not list((tmp_path / "d" / "ingest" / "fetch").iterdir()))
    assert [path.name for path in artifacts.iterdir()] == [job["revision"]], f"seed {seed}: something leaked"


@pytest.mark.parametrize("seed", seeds(4))
def test_killed_service_finishes_its_job_and_leaks_nothing(
    seed: int, hub: RangedServer, tmp_path: Path
) -> None:
    check_killed_at(seed, hub, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", seeds(40))
def test_killed_service_finishes_its_job_and_leaks_nothing_nightly(
    seed: int, hub: RangedServer, tmp_path: Path
) -> None:
    check_killed_at(seed, hub, tmp_path)


def test_pieces_that_arrived_before_a_kill_are_not_fetched_again(hub: RangedServer, tmp_path: Path) -> None:
    with IngestProcess(tmp_path / "d", env={"HF_ENDPOINT": hub.url("")}) as process:
        job_id = process.submit(f"hf://{REPOSITORY}").json()["id"]
        eventually(
            lambda: process.job(job_id)["phase"] == "fetch" and process.job(job_id)["done_bytes"] > 16 * MIB
        )
        process.server.kill()
        process.server.start()
        job = eventually(lambda: process.ended(job_id))
    assert job["state"] == "done", job["error"]
    assert 0 < job["fetched_bytes"] <= 41 * MIB
