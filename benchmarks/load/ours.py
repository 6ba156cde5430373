# SPDX-License-Identifier: Apache-2.0
"""Our loader and the disk's limit, each measurement in a process of its own: `ours.py JSON`, see `Task`.

Prints a line once it is warm, measures at a line of input, answers one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from benchmarks._harness.disk_limit import DiskLimit
from benchmarks.load.touch import Stopwatch, touch
from serverlessllm.arena.arena import Arena
from serverlessllm.arena.mapping import map_extents
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.clock import SystemClock
from serverlessllm.config import ArenaConfig, LoaderConfig
from serverlessllm.engine.base import EngineLimits, Weights
from serverlessllm.engine.llama.engine import LlamaEngine, create
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.loader import Loader

KV_CACHE_BYTES = 256 << 20


class Task(msgspec.Struct, frozen=True):
    """`way`: limit · arena (pages touched before) · fresh (touched within the timer).

    `warm_up` is a small artifact, loaded first.
    """

    way: str
    artifact: str
    warm_up: str
    home: str
    num_threads: int
    read_bytes: int
    verify: str = "never"


class Subject:
    """An arena and a loader, with nothing loaded."""

    def __init__(self, task: Task, directory: Path, artifact: Artifact, *, touched: bool) -> None:
        grain = ArenaConfig().extent_bytes
        budget_bytes = (artifact.index.weights_nbytes // grain + 1) * grain
        self.artifact = artifact
        self.arena = Arena.open(directory, ArenaConfig(budget_bytes=budget_bytes))
        config = LoaderConfig(threads=task.num_threads, chunk_bytes=task.read_bytes, verify=task.verify)
        clock = SystemClock()
        self.loader = Loader(self.arena, NvmeTier(artifact.directory.parent, 0, clock), config, clock)
        while touched and self.arena.touch_free(budget_bytes, pause=lambda _step_s: False):
            pass

    async def load(self) -> None:
        """Bytes into the arena."""
        await self.loader.load(self.artifact.revision, self.artifact)

    def bind(self, engine: LlamaEngine) -> memoryview:
        """What a worker does: map the region read-only, and build the model as views of it."""
        region = self.arena.get(self.artifact.revision)
        if region is None:
            raise RuntimeError("the model is not in the arena")
        with self.arena.pin(self.artifact.revision) as pin:
            view = map_extents(pin.fd, region.extents, writable=False).view
        engine.attach_weights(Weights(view, self.artifact.layout()), EngineLimits(8, 0, KV_CACHE_BYTES), {})
        return view

    async def close(self) -> None:
        await self.loader.close()
        self.arena.close(keep=False)


def touch_all(artifact: Artifact, view: memoryview) -> int:
    """The sum of `touch` over all tensors."""
    region = np.frombuffer(view, np.uint8)
    return sum(touch(region[t.offset : t.offset + t.nbytes]) for t in artifact.layout().tensors)


async def measure(subject: Subject, engine: LlamaEngine) -> dict[str, float]:
    """Load, bind, touch: `load_s` ends when the bytes are in memory, `seconds` when all of them were touched."""
    watch = Stopwatch()
    await subject.load()
    load_s, load_cpu_s = watch.seconds, watch.cpu_s
    view = subject.bind(engine)
    bound_s = watch.seconds
    checksum = touch_all(subject.artifact, view)
    answer = {
        "load_s": load_s,
        "load_cpu_s": load_cpu_s,
        "bind_ms": (bound_s - load_s) * 1e3,
        "touch_ms": (watch.seconds - bound_s) * 1e3,
        "seconds": watch.seconds,
        "cpu_s": watch.cpu_s,
        "checksum": checksum,
    }
    engine.detach_weights()
    return answer


async def run_loader(task: Task, directory: Path) -> None:
    """Warm up with the small artifact, then one measurement."""
    engine = create("bfloat16", 2)
    engine.prime()
    small = Subject(task, directory / "small", Artifact.open(Path(task.warm_up)), touched=False)
    await measure(small, engine)
    await small.close()
    subject = Subject(
        task, directory / "full", Artifact.open(Path(task.artifact)), touched=task.way == "arena"
    )
    print(json.dumps({"huge_pages": subject.arena.huge_pages}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(await measure(subject, engine)), flush=True)
        break
    await subject.close()


def run_limit(task: Task) -> None:
    """The bare reads."""
    artifact = Artifact.open(Path(task.artifact))
    path = artifact.directory / artifact.index.weight_files[0].name
    limit = DiskLimit(path, num_threads=task.num_threads, read_bytes=task.read_bytes)
    print(json.dumps({"page_bytes": limit.page_bytes}), flush=True)
    for _ in sys.stdin:
        watch = Stopwatch()
        seconds = limit.measure_s()
        print(json.dumps({"seconds": seconds, "cpu_s": watch.cpu_s}), flush=True)


def main() -> None:
    """One task."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    if task.way == "limit":
        run_limit(task)
        return
    with tempfile.TemporaryDirectory(prefix="arena-", dir=task.home) as directory:
        asyncio.run(run_loader(task, Path(directory)))


if __name__ == "__main__":
    main()
