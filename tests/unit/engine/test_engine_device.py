# SPDX-License-Identifier: Apache-2.0
"""What the road to a GPU does where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from serverlessllm.engine.host_arena import HostArena, HostRegion
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.device_weights import DeviceWeights
from serverlessllm.engine.llama.engine import create
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.engine.llama.weights import read_weights
from serverlessllm.errors import EngineError
from support.tiny_llama import build_tiny


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_missing_gpu_is_said_with_the_setting_to_change() -> None:
    with pytest.raises(EngineError, match=r"engine\.device") as failure:
        create("float32", 1, device="cuda")
    assert failure.value.param == "device"


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_copied_weights_equal_the_mapped_ones(family: str) -> None:
    tiny = build_tiny(family)
    config = LlamaConfig.parse(tiny.weights.layout.architecture)
    mapped = read_weights(config, RegionTensors(tiny.weights, torch.float32))
    source = HostRegion(tiny.weights.region)
    arriving = DeviceWeights(config, source, tiny.weights.layout, torch.float32, torch.device("cpu"))
    arriving.finish()
    copied = arriving.weights
    assert torch.equal(copied.embedding, mapped.embedding)
    assert torch.equal(copied.head.whole, mapped.head.whole)
    assert len(copied.layers) == len(mapped.layers)
    for ours, theirs in zip(copied.layers, mapped.layers, strict=True):
        assert torch.equal(ours.qkv.whole, theirs.qkv.whole)
        assert torch.equal(ours.gate_up.whole, theirs.gate_up.whole)
        assert torch.equal(ours.down.transposed, theirs.down.transposed)
        row = torch.randn(1, config.hidden_size)
        assert torch.equal(ours.attention_norm(row), theirs.attention_norm(row))
    assert arriving.copied_bytes == 0


def test_checkpoint_in_another_dtype_is_converted_once_it_has_arrived() -> None:
    tiny = build_tiny("llama")
    config = LlamaConfig.parse(tiny.weights.layout.architecture)
    source = HostRegion(tiny.weights.region)
    arriving = DeviceWeights(config, source, tiny.weights.layout, torch.bfloat16, torch.device("cpu"))
    assert {layer.qkv.whole.dtype for layer in arriving.weights.layers} == {torch.bfloat16}


def test_missing_arena_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="absent"):
        HostArena.open(tmp_path / "absent", register=False)
    empty = tmp_path / "empty"
    os.close(os.open(empty, os.O_CREAT | os.O_RDWR))
    with pytest.raises(EngineError, match="cannot map the arena"):
        HostArena.open(empty, register=False)
