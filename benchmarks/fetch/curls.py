# SPDX-License-Identifier: Apache-2.0
"""What one does without us: eight curls, each a range into tmpfs, then b3sum over what came."""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

NUM_CURLS = 8


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall and CPU time of the curls, and of both together."""

    curl_s: float
    total_s: float
    cpu_s: float


def fetch(url: str, nbytes: int, directory: Path) -> Timing:
    """Fetch once. Raises CalledProcessError when a curl or b3sum fails; RuntimeError when bytes are missing."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    share = -(-nbytes // NUM_CURLS)
    parts = [directory / f"part.{number}" for number in range(NUM_CURLS)]
    before, started_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    curls = [
        subprocess.Popen(
            ["curl", "-sSf", "-r", f"{n * share}-{min(nbytes, (n + 1) * share) - 1}", "-o", str(part), url]
        )
        for n, part in enumerate(parts)
    ]
    if any(curl.wait() for curl in curls):
        raise RuntimeError("a curl failed")
    fetched_s = time.perf_counter()
    subprocess.run(["b3sum", *map(str, parts)], check=True, stdout=subprocess.DEVNULL)
    ended_s = time.perf_counter()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if sum(part.stat().st_size for part in parts) != nbytes:
        raise RuntimeError("bytes are missing")
    shutil.rmtree(directory)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timing(fetched_s - started_s, ended_s - started_s, cpu_s)
