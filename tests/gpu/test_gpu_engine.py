# SPDX-License-Identifier: Apache-2.0
"""The engine on a real GPU: `make test-gpu`. Skipped, with the reason, where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from serverlessllm.clock import SystemClock
from serverlessllm.engine.base import EngineLimits, RegionFile, Weights
from serverlessllm.engine.llama.engine import LlamaEngine
from support.tiny_llama import TinyModel, attached_engine, build_tiny, generate_ids, request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]
PROMPTS = {f"r{length}": [(7 * at + length) % 200 + 1 for at in range(length)] for length in (1, 5, 33, 90)}


def gpu_engine(tiny: TinyModel, arena: Path | None = None) -> LlamaEngine:
    engine = LlamaEngine("float32", SystemClock(), torch.device("cuda"), "" if arena is None else str(arena))
    file = None
    if arena is not None:
        nbytes = -(-len(tiny.weights.region) // 4096) * 4096
        arena.write_bytes(bytes(tiny.weights.region).ljust(nbytes, b"\0"))
        engine.prime()
        file = RegionFile(-1, [(0, nbytes)])
    weights = Weights(tiny.weights.region, tiny.weights.layout, file=file)
    engine.attach_weights(weights, EngineLimits(8, 0), {})
    return engine


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_gpu_answers_as_the_cpu_does(family: str) -> None:
    tiny = build_tiny(family)
    requests = [request(name, ids, 12) for name, ids in PROMPTS.items()]
    assert generate_ids(gpu_engine(tiny), *requests) == generate_ids(attached_engine(tiny.weights), *requests)


def test_weights_from_a_page_locked_arena_answer_the_same(tmp_path: Path) -> None:
    tiny = build_tiny("llama")
    arena = Path("/dev/shm") / f"sllm-test-{os.getpid()}.arena"
    try:
        ours = generate_ids(gpu_engine(tiny, arena), request("r", PROMPTS["r33"], 12))
    finally:
        arena.unlink(missing_ok=True)
    assert ours == generate_ids(attached_engine(tiny.weights), request("r", PROMPTS["r33"], 12))


def test_models_that_come_and_go_leave_no_device_memory() -> None:
    models = [build_tiny(family) for family in ("llama", "qwen3")]
    used = []
    for number in range(20):
        engine = gpu_engine(models[number % 2])
        generate_ids(engine, request("r", PROMPTS["r5"], 3))
        engine.detach_weights()
        used.append(torch.cuda.memory_allocated())
    assert used[-1] <= used[1]
