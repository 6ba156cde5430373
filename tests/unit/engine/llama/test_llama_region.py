# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import mmap

import pytest
import torch

from serverlessllm.engine.base import Weights
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.wire.worker import ModelLayout, TensorGroup, TensorSlice


def region_of(values: torch.Tensor, *slices: TensorSlice, groups: tuple[TensorGroup, ...] = ()) -> Weights:
    data = memoryview(values.numpy().tobytes())
    return Weights(data, ModelLayout({}, list(slices), list(groups), {"tied": "a"}))


A = TensorSlice("a", "f32", (2, 3), 0, 24)
B = TensorSlice("b", "f32", (1, 3), 24, 12)
NUMBERS = torch.arange(12, dtype=torch.float32)


def test_tensor_is_a_view_of_the_region() -> None:
    memory = mmap.mmap(-1, 4096)
    tensors = RegionTensors(Weights(memoryview(memory), ModelLayout({}, [A], [], {})), torch.float32)
    view = tensors.tensor("a", (2, 3))
    memory[0:4] = torch.tensor([7.0]).numpy().tobytes()
    assert view[0, 0].item() == 7.0
    assert tensors.copied_bytes == 0


def test_alias_is_its_target() -> None:
    tensors = RegionTensors(region_of(NUMBERS, A), torch.float32)
    assert "tied" in tensors
    assert torch.equal(tensors.tensor("tied", (2, 3)), NUMBERS[:6].view(2, 3))


def test_packed_group_is_one_view() -> None:
    group = TensorGroup("qkv", ("a", "b"), 0, 36)
    tensors = RegionTensors(region_of(NUMBERS, A, B, groups=(group,)), torch.float32)
    fused = tensors.fused(["a", "b"], [(2, 3), (1, 3)])
    assert torch.equal(fused, NUMBERS[:9].view(3, 3))
    assert tensors.copied_bytes == 0


def test_members_that_lie_apart_are_copied_and_counted() -> None:
    apart = TensorSlice("b", "f32", (1, 3), 36, 12)
    tensors = RegionTensors(region_of(NUMBERS, A, apart), torch.float32)
    fused = tensors.fused(["a", "b"], [(2, 3), (1, 3)])
    assert fused.flatten().tolist() == [0, 1, 2, 3, 4, 5, 9, 10, 11]
    assert tensors.copied_bytes == 36


def test_other_dtype_is_converted_and_counted() -> None:
    tensors = RegionTensors(region_of(NUMBERS, A), torch.bfloat16)
    assert tensors.tensor("a", (2, 3)).dtype == torch.bfloat16
    assert tensors.copied_bytes == 12


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (TensorSlice("a", "f32", (2, 3), 28, 24), "do not lie in the region"),
        (TensorSlice("a", "f32", (2, 3), -4, 24), "do not lie in the region"),
        (TensorSlice("a", "f32", (2, 3), 2, 24), "not aligned"),
        (TensorSlice("a", "f32", (3, 2), 0, 24), "has shape"),
        (TensorSlice("other", "f32", (2, 3), 0, 24), "is missing"),
    ],
)
def test_tensor_that_contradicts_its_layout_is_refused(entry: TensorSlice, problem: str) -> None:
    tensors = RegionTensors(region_of(NUMBERS, entry), torch.float32)
    with pytest.raises(CheckpointFormatError, match=problem) as refused:
        tensors.tensor("a", (2, 3))
    assert refused.value.param == "a"


def test_dtype_that_cannot_be_computed_with_is_refused() -> None:
    tensors = RegionTensors(region_of(NUMBERS, TensorSlice("a", "i32", (2, 3), 0, 24)), torch.float32)
    with pytest.raises(UnsupportedCheckpointError, match="i32"):
        tensors.tensor("a", (2, 3))
