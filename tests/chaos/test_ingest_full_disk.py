# SPDX-License-Identifier: Apache-2.0
"""A full disk under the ingest service: told before a byte is fetched, and forgotten once there is room again.

Needs root, to mount a small file system.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.hub_objects import directory_files, hub_objects
from support.ingest_process import IngestProcess
from support.platform import eventually
from support.ranged_server import RangedServer
from support.small_disk import fill, small_disk
from support.tiny_checkpoints import write_hf_directory

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
MIB = 1 << 20
REPOSITORY = "org/model"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 96 * MIB) as point:
        yield point


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint of 40 MiB."""
    words = np.arange(5 * MIB, dtype=np.int64).reshape(-1, 1024)
    return write_hf_directory(tmp_path / "hf", {"model.layers.0.w.weight": words})


def test_fetch_that_does_not_fit_is_refused_before_its_first_byte(disk: Path, source: Path) -> None:
    with RangedServer(hub_objects(REPOSITORY, directory_files(source))) as hub:
        process = IngestProcess(disk / "d", env={"HF_ENDPOINT": hub.url("")})
        with process:
            hog = fill(disk, leave_bytes=50 * MIB)  # room for the files, not for the artifact too
            job_id = process.submit(f"hf://{REPOSITORY}").json()["id"]
            job = eventually(lambda: process.ended(job_id))
            assert (job["state"], job["error"]["code"]) == ("failed", "no_capacity")
            assert f"no room for hf://{REPOSITORY}" in job["error"]["message"]
            assert hub.served.requests == []
            hog.unlink()
            again = process.submit(f"hf://{REPOSITORY}").json()["id"]
            assert eventually(lambda: process.ended(again))["state"] == "done"


def test_conversion_that_does_not_fit_leaves_nothing_and_works_with_room(disk: Path, source: Path) -> None:
    with IngestProcess(disk / "d") as process:
        hog = fill(disk, leave_bytes=20 * MIB)
        job_id = process.submit(str(source)).json()["id"]
        job = eventually(lambda: process.ended(job_id))
        assert (job["state"], job["error"]["code"]) == ("failed", "no_capacity")
        assert list((disk / "d" / "artifacts").iterdir()) == []
        hog.unlink()
        again = process.submit(str(source)).json()["id"]
        assert eventually(lambda: process.ended(again))["state"] == "done"


def test_disk_without_a_byte_takes_no_job_and_the_service_lives(disk: Path, source: Path) -> None:
    with IngestProcess(disk / "d", log_path=source.parent / "log") as process:
        hog = fill(disk, leave_bytes=0)
        refused = process.submit(str(source))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_capacity")
        hog.unlink()
        job_id = process.submit(str(source)).json()["id"]
        assert eventually(lambda: process.ended(job_id))["state"] == "done"


def test_what_others_left_half_fetched_makes_room(disk: Path, source: Path) -> None:
    hub = RangedServer(hub_objects(REPOSITORY, directory_files(source)))
    process = IngestProcess(disk / "d", env={"HF_ENDPOINT": hub.url("")})
    with hub, process:
        left = disk / "d" / "ingest" / "fetch" / ("0" * 32)
        left.mkdir(parents=True)
        fill(left, leave_bytes=30 * MIB)
        job_id = process.submit(f"hf://{REPOSITORY}").json()["id"]
        assert eventually(lambda: process.ended(job_id))["state"] == "done"
        assert not left.exists()
