# SPDX-License-Identifier: Apache-2.0
"""What each rank sees of a region: parts that make up the whole, and that are views of it."""

from __future__ import annotations

import pytest
import torch

from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.rank_group import RankGroup
from serverlessllm.engine.llama.rank_tensors import RankTensors
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.engine.llama.weights import LlamaWeights, read_weights
from serverlessllm.errors import UnsupportedCheckpointError
from support.tiny_llama import TinyModel, build_tiny


def parts_of(tiny: TinyModel, world_size: int) -> list[tuple[RankTensors, LlamaWeights]]:
    whole = LlamaConfig.parse(tiny.weights.layout.architecture)
    groups = [RankGroup(rank, world_size) for rank in range(world_size)]
    tensors = [RankTensors(whole, tiny.weights, torch.float32, group) for group in groups]
    return [
        (each, read_weights(group.config_of(whole), each))
        for group, each in zip(groups, tensors, strict=True)
    ]


def whole_of(tiny: TinyModel) -> LlamaWeights:
    config = LlamaConfig.parse(tiny.weights.layout.architecture)
    return read_weights(config, RegionTensors(tiny.weights, torch.float32))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_parts_of_all_ranks_make_up_the_whole_without_a_copy(family: str) -> None:
    tiny = build_tiny(family, {"vocab_size": 212})
    whole = whole_of(tiny)
    first, second = parts_of(tiny, 2)
    for index, layer in enumerate(whole.layers):
        ours, theirs = first[1].layers[index], second[1].layers[index]
        stacked = [torch.cat(pair) for pair in zip(ours.qkv.parts, theirs.qkv.parts, strict=True)]
        assert torch.equal(torch.cat(stacked), layer.qkv.whole)
        assert torch.equal(torch.cat((ours.o.transposed, theirs.o.transposed)), layer.o.transposed)
        assert torch.equal(torch.cat((ours.down.transposed, theirs.down.transposed)), layer.down.transposed)
    assert torch.equal(torch.cat((first[1].head.whole, second[1].head.whole)), whole.head.whole)
    assert first[0].copied_bytes == second[0].copied_bytes == 0


def test_key_heads_fewer_than_ranks_are_on_several_of_them() -> None:
    tiny = build_tiny("llama", {"num_attention_heads": 4, "num_key_value_heads": 2})
    keys = [weights.layers[0].qkv.parts[1] for _, weights in parts_of(tiny, 4)]
    assert torch.equal(keys[0], keys[1])
    assert torch.equal(keys[2], keys[3])
    assert not torch.equal(keys[1], keys[2])


def test_vocabulary_that_does_not_divide_stays_with_rank_0() -> None:
    tiny = build_tiny("llama", {"vocab_size": 211})
    assert [len(weights.head.whole) for _, weights in parts_of(tiny, 2)] == [211, 0]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, "num_attention_heads"),
        ({"intermediate_size": 81}, "intermediate_size"),
        ({"num_attention_heads": 12, "num_key_value_heads": 3, "head_dim": 4}, "num_key_value_heads"),
    ],
)
def test_what_does_not_divide_is_refused_by_name(changes: dict[str, object], key: str) -> None:
    config = LlamaConfig.parse(build_tiny("llama", changes).weights.layout.architecture)
    with pytest.raises(UnsupportedCheckpointError, match=key):
        RankGroup(0, 2).config_of(config)
