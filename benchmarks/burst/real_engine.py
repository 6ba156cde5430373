# SPDX-License-Identifier: Apache-2.0
"""A smaller burst with the real engine: small random Llamas on `torch`, more of them than seats."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.burst import trace
from benchmarks.burst.client import Answered, replay
from benchmarks.burst.cluster import BurstCluster
from benchmarks.burst.hardware import Hardware
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.ingest.convert import convert

NUM_MODELS: Final = 6
RATE_PER_S: Final = 4.0
SECONDS: Final = 30.0
HARDWARE: Final = Hardware(
    num_nodes=2, num_seats=2, dram_models=3, max_batch=8, prompt_tokens=64, answer_tokens=16
)
CONDITIONS: Final = (
    f"{NUM_MODELS} random Llamas of 4 layers (8 MB) on torch in float32, {HARDWARE.num_nodes} nodes with "
    f"{HARDWARE.num_seats} slots and {HARDWARE.dram_models} models in DRAM each, {RATE_PER_S:g} requests/s for "
    f"{SECONDS:g} s, prompts of {HARDWARE.prompt_tokens} and answers of {HARDWARE.answer_tokens} tokens"
)


def run() -> list[Answered]:
    """All answers of one trace under the whole score."""
    calls = trace.make_trace(trace.SEEDS[0], SECONDS, rate_per_s=RATE_PER_S, num_models=NUM_MODELS)
    with tempfile.TemporaryDirectory(prefix="burst-torch-", dir="/dev/shm") as name:
        home = Path(name)
        artifacts = [_artifact(home, index) for index in range(NUM_MODELS)]
        with BurstCluster(home, HARDWARE, artifacts, engine="torch") as cluster:
            asyncio.run(cluster.prepare())
            answered, _ = asyncio.run(replay(cluster.front.url, calls, HARDWARE))
    return answered


def _artifact(home: Path, index: int) -> Artifact:
    """A checkpoint of random weights, converted as `model add` would."""
    from benchmarks.gpu_cold_start.random_checkpoint import Shape, write_checkpoint

    shape = Shape(hidden=256, ffn=704, num_layers=4, num_heads=4, num_kv_heads=2, vocab=2048, context=512)
    source = home / f"source-{index}"
    write_checkpoint(source, shape, "cpu", seed=index)
    report = convert(source, home / "artifacts")
    return Artifact.open(Path(report.directory))
