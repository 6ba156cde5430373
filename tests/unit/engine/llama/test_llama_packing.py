# SPDX-License-Identifier: Apache-2.0
"""Packed copies of weights: when they are made, what they may take, and that they change no number."""

from __future__ import annotations

import pytest
import torch

from serverlessllm.engine.base import EngineLimits
from serverlessllm.engine.llama import packing
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.engine import LlamaEngine, create
from serverlessllm.engine.llama.packing import QUIET_STEPS, Packer
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.engine.llama.weights import LlamaWeights, read_weights
from support.tiny_llama import build_tiny, generate_ids, reference_weights, request

PROMPT = [5, 40, 41, 7]
NUM_LAYERS = 3


@pytest.fixture(scope="module")
def plain() -> LlamaWeights:
    weights = reference_weights(build_tiny("qwen2").reference, torch.bfloat16)
    config = LlamaConfig.parse(weights.layout.architecture)
    return read_weights(config, RegionTensors(weights, torch.bfloat16))


def packed_wholly(weights: LlamaWeights) -> Packer:
    packer = Packer(weights, 1 << 30)
    for _ in range(QUIET_STEPS + NUM_LAYERS + 1):
        packer.note_step()
    return packer


@pytest.mark.parametrize("num_rows", [1, 2, 7, 16, 17])
def test_packed_products_are_the_same_bits(plain: LlamaWeights, num_rows: int) -> None:
    packed = packed_wholly(plain).weights
    hidden = torch.randn(num_rows, 48).bfloat16()
    widened = torch.randn(num_rows, 80).bfloat16()
    for ours, theirs in zip(packed.layers, plain.layers, strict=True):
        assert torch.equal(ours.qkv(hidden), theirs.qkv(hidden))
        assert torch.equal(ours.o.added(hidden, hidden), theirs.o.added(hidden, hidden))
        assert torch.equal(ours.down.product(widened), theirs.down.product(widened))
    assert torch.equal(packed.logits(hidden), plain.logits(hidden))


def test_nothing_is_packed_before_a_replica_has_decoded_for_a_while(plain: LlamaWeights) -> None:
    packer = Packer(plain, 1 << 30)
    assert [packer.note_step() for _ in range(QUIET_STEPS)] == [False] * QUIET_STEPS
    assert [packer.note_step() for _ in range(NUM_LAYERS + 2)] == [True] * (NUM_LAYERS + 1) + [False]
    assert all(layer.qkv.packed is not None for layer in packer.weights.layers)


def test_copies_end_where_the_budget_does_and_can_be_dropped(plain: LlamaWeights) -> None:
    whole_bytes = packed_wholly(plain).packed_bytes
    packer = Packer(plain, whole_bytes // 2)
    for _ in range(QUIET_STEPS + 10):
        packer.note_step()
    assert 0 < packer.packed_bytes <= whole_bytes // 2
    packer.drop()
    assert packer.packed_bytes == 0
    assert all(layer.qkv.packed is None for layer in packer.weights.layers)


def test_long_answers_are_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "QUIET_STEPS", 4)
    weights = reference_weights(build_tiny("llama").reference, torch.bfloat16)

    def engine(*, packs: bool) -> LlamaEngine:
        made = create("bfloat16", 1)
        made.attach_weights(weights, EngineLimits(4, 0, packs_weights=packs), {})
        return made

    requests = [request(f"r{number}", [*PROMPT, number], 40) for number in range(3)]
    with_copies = engine(packs=True)
    got = generate_ids(with_copies, *requests)
    assert got == generate_ids(engine(packs=False), *requests)
    with_copies.quiesce()
    with_copies.resume()
    assert generate_ids(with_copies, *requests) == got
