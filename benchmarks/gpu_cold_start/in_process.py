# SPDX-License-Identifier: Apache-2.0
"""What a process does between the bytes in DRAM and the first token, without HTTP: our engine on the GPU alone.

usage: in_process.py ARTIFACT_DIR ROUNDS

Copies the artifact into a huge-page tmpfs file, page-locks it, and prints one JSON line: the link's ceiling, the copy
of the weights alone, a first token that follows the copy block by block, and one that waits for all of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks._harness.stats import median
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.clock import SystemClock
from serverlessllm.engine.base import EngineLimits, RegionFile, Weights
from serverlessllm.engine.llama.engine import LlamaEngine
from serverlessllm.wire.worker import Generate, SamplingParams

GIB = 1 << 30
PROMPT_IDS = list(range(1, 33))


def arena_file(artifact: Artifact) -> Path:
    """The weights in a tmpfs file, as an agent's loader would leave them."""
    where = Path(tempfile.mkdtemp())
    mount = ["mount", "-t", "tmpfs", "-o", "huge=always", "none", str(where)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        where = Path("/dev/shm")
    path = where / "bench.arena"
    source = artifact.directory / artifact.index.shards[0].encodings[0].file
    with source.open("rb") as reader, path.open("wb") as writer:
        while block := reader.read(64 << 20):
            writer.write(block)
        os.truncate(path, -(-source.stat().st_size // 4096) * 4096)
    return path


def once_ms(work: Callable[[], object]) -> float:
    """One call, and the device's end of it."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1e3


def timed_ms(work: Callable[[], object], rounds: int) -> float:
    """Median over rounds; the first one is not counted."""
    return median([once_ms(work) for _ in range(rounds + 1)][1:])


class Subject:
    """The engine with the arena page-locked, ready for any number of attaches."""

    def __init__(self, artifact: Artifact, path: Path) -> None:
        nbytes = path.stat().st_size
        self.nbytes = artifact.index.weights_nbytes
        self.engine = LlamaEngine("bfloat16", SystemClock(), torch.device("cuda"), str(path))
        started = time.perf_counter()
        self.engine.prime()
        self.prime_s = time.perf_counter() - started
        self.weights = Weights(memoryview(b""), artifact.layout(), file=RegionFile(-1, [(0, nbytes)]))

    def first_token(self, *, wait_for_all: bool = False) -> None:
        """Attach, answer one token, detach."""
        self.engine.attach_weights(self.weights, EngineLimits(2, 2048), {})
        if wait_for_all:
            torch.cuda.synchronize()
        request = Generate("r", PROMPT_IDS, 1, SamplingParams(temperature=0.0), [])
        self.engine.add(request)
        while self.engine.has_work:
            self.engine.step()
        self.engine.detach_weights()

    def copy_only(self) -> None:
        """The copies of all shards, and their end."""
        self.engine.attach_weights(self.weights, EngineLimits(2, 2048), {})
        self.engine.detach_weights()


def link_gbps() -> float:
    """Pinned host memory to the device, large copies."""
    pinned = torch.empty(2 * GIB, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(pinned, device="cuda")
    return 2 * GIB / timed_ms(lambda: target.copy_(pinned, non_blocking=True), 5) / 1e6


def device_copy_gbps() -> float:
    """Device memory to device memory, counting bytes once."""
    source = torch.empty(4 * GIB, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 4 * GIB / timed_ms(lambda: target.copy_(source), 5) / 1e6


def main() -> None:
    """Measure and print."""
    artifact = Artifact.open(Path(sys.argv[1]))
    rounds = int(sys.argv[2])
    found = {"link_gbps": link_gbps(), "device_copy_gbps": device_copy_gbps()}
    torch.cuda.empty_cache()
    path = arena_file(artifact)
    try:
        subject = Subject(artifact, path)
        found |= {
            "prime_and_register_s": subject.prime_s,
            "very_first_token_ms": once_ms(subject.first_token),
            "copy_ms": timed_ms(subject.copy_only, rounds),
            "streamed_first_token_ms": timed_ms(subject.first_token, rounds),
            "serial_first_token_ms": timed_ms(lambda: subject.first_token(wait_for_all=True), rounds),
            "weights_bytes": float(subject.nbytes),
        }
    finally:
        path.unlink()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
