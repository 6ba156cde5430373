# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random points of a fetch, again and again: what comes out is the source, and little is fetched twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest

from serverlessllm.checkpoint.spec import CHUNK_BYTES
from support.ranged_server import FaultKind, RangedServer, RangeRequest
from support.seeds import seeds

NUM_PIECES: Final = 24
NUM_WORKERS: Final = 3
NUM_KILLS: Final = 5
PATIENCE_S: Final = 60.0


def start(server: RangedServer, directory: Path) -> subprocess.Popen[bytes]:
    tests = Path(__file__).parents[1]
    command = [
        sys.executable,
        "-m",
        "support.fetch_child",
        server.url("/model.gguf"),
        str(directory),
        str(NUM_WORKERS),
    ]
    search = os.pathsep.join(filter(None, [str(tests), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": search})


@pytest.mark.parametrize("seed", seeds(2))
def test_fetch_killed_at_random_points_ends_with_the_bytes_of_the_source(tmp_path: Path, seed: int) -> None:
    pick = random.Random(seed)
    data = pick.randbytes(NUM_PIECES * CHUNK_BYTES - 1234)
    kill_now = threading.Event()
    kill_at = -1

    def note(request: RangeRequest) -> FaultKind | None:
        if request.number == kill_at:
            kill_now.set()
        return None

    with RangedServer({"/model.gguf": data}, fault=note, bytes_per_s=400e6) as server:
        for _ in range(NUM_KILLS):
            kill_at = len(server.served.requests) + pick.randrange(NUM_PIECES // NUM_KILLS)
            child = start(server, tmp_path)
            kill_now.wait(PATIENCE_S)
            kill_now.clear()
            # Anywhere between the first byte of a piece and its record.
            threading.Event().wait(pick.uniform(0, 0.05))
            child.kill()
            child.wait(PATIENCE_S)
            assert not (tmp_path / "model.gguf").exists()
        assert start(server, tmp_path).wait(PATIENCE_S) == 0
        asked_bytes = sum(request.end - request.start for request in server.served.requests)
    assert (tmp_path / "model.gguf").read_bytes() == data
    assert {path.name for path in tmp_path.iterdir()} == {"model.gguf", ".fetched"}
    # One piece per worker may be under way at a kill; a retry's piece is asked for once more.
    assert asked_bytes <= len(data) + NUM_KILLS * NUM_WORKERS * CHUNK_BYTES
