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
from support.platform import eventually
from support.ranged_server import RangedServer
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
    with RangedServer({"/model.gguf": data}, bytes_per_s=400e6) as server:
        for _ in range(NUM_KILLS):
            kill_at_bytes = server.served.nbytes + pick.randrange(len(data) // (NUM_KILLS + 1))
            child = start(server, tmp_path)
            eventually(lambda at=kill_at_bytes: server.served.nbytes > at)  # type: ignore[misc]
            # Anywhere between the first byte of a piece and its record.
            threading.Event().wait(pick.uniform(0, 0.05))
            child.kill()
            child.wait(PATIENCE_S)
            assert not (tmp_path / "model.gguf").exists()
        assert start(server, tmp_path).wait(PATIENCE_S) == 0
        sent_bytes = server.served.nbytes
    assert (tmp_path / "model.gguf").read_bytes() == data
    assert {path.name for path in tmp_path.iterdir()} == {"model.gguf", ".fetched"}
    # One piece per worker may be under way at a kill, and as much again in the connection's buffers.
    assert sent_bytes <= len(data) + NUM_KILLS * NUM_WORKERS * 2 * CHUNK_BYTES
