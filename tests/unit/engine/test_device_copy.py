# SPDX-License-Identifier: Apache-2.0
"""The copy stage on the CPU: what arrives equals what a plain slice gives, shard by shard."""

from __future__ import annotations

import pytest
import torch

from serverlessllm.engine.copy_plan import plan_copies
from serverlessllm.engine.device_copy import CopyEvent, DeviceCopy
from serverlessllm.errors import UnsupportedCheckpointError
from serverlessllm.wire.worker import TensorSlice

HEAD_DIM = 4
CPU = torch.device("cpu")


class Model:
    """A region with random tensors, and the tensors themselves."""

    def __init__(self) -> None:
        shapes = {
            "model.embed_tokens.weight": (16, 8),
            "model.layers.0.self_attn.q_proj.weight": (16, 8),
            "model.layers.0.self_attn.k_proj.weight": (8, 8),
            "model.layers.0.self_attn.o_proj.weight": (8, 16),
            "model.layers.0.mlp.down_proj.weight": (8, 12),
            "model.layers.0.input_layernorm.weight": (8,),
            "model.norm.weight": (8,),
        }
        self.tensors = {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
        data = bytearray()
        self.slices: list[TensorSlice] = []
        for name, value in self.tensors.items():
            data += bytes(-len(data) % 64)
            self.slices.append(TensorSlice(name, "bf16", tuple(value.shape), len(data), value.nbytes))
            data += value.view(torch.uint8).numpy().tobytes()
        self.region = memoryview(bytes(data))

    def copy(self, rank: int = 0, world_size: int = 1) -> DeviceCopy:
        shards = plan_copies(self.slices, head_dim=HEAD_DIM, rank=rank, world_size=world_size)
        return DeviceCopy(self.region, shards, CPU)


def copied(copy: DeviceCopy) -> dict[str, torch.Tensor]:
    for shard in ("embed", "block.0", "final"):
        copy.copy_shard(shard)
        copy.wait(shard)
    copy.finish()
    return copy.tensors


def test_one_rank_gets_every_tensor_bit_by_bit() -> None:
    model = Model()
    copy = model.copy()
    tensors = copied(copy)
    assert tensors.keys() == model.tensors.keys()
    assert all(torch.equal(tensors[name], value) for name, value in model.tensors.items())
    assert copy.copied_bytes == sum(value.nbytes for value in model.tensors.values())


@pytest.mark.parametrize("world_size", [2, 4])
def test_parts_of_all_ranks_make_up_the_model(world_size: int) -> None:
    model = Model()
    ranks = [copied(model.copy(rank, world_size)) for rank in range(world_size)]
    for name, dim in (
        ("model.embed_tokens.weight", 0),
        ("model.layers.0.self_attn.q_proj.weight", 0),
        ("model.layers.0.self_attn.o_proj.weight", 1),
        ("model.layers.0.mlp.down_proj.weight", 1),
    ):
        assert torch.equal(torch.cat([tensors[name] for tensors in ranks], dim), model.tensors[name])
    assert all(
        torch.equal(tensors["model.norm.weight"], model.tensors["model.norm.weight"]) for tensors in ranks
    )


def test_shard_can_be_used_before_the_next_one_is_copied() -> None:
    model = Model()
    copy = model.copy()
    copy.copy_shard("embed")
    copy.wait("embed")
    assert list(copy.tensors) == ["model.embed_tokens.weight"]
    with pytest.raises(KeyError):
        copy.wait("block.0")


def test_copies_and_events_are_enqueued_in_order_of_the_shards() -> None:
    model = Model()
    log: list[str] = []

    class Recorder:
        def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
            target.copy_(source)
            log.append("copy")

        def record(self) -> CopyEvent:
            log.append("event")
            return Recorded()

    class Recorded:
        def wait(self) -> None:
            log.append("wait")

        def synchronize(self) -> None:
            log.append("synchronize")

    shards = plan_copies(model.slices[:1] + model.slices[-1:], head_dim=HEAD_DIM)
    copy = DeviceCopy(model.region, shards, CPU, stream=Recorder())
    copy.copy_shard("embed")
    copy.copy_shard("embed")
    copy.copy_shard("final")
    copy.wait("final")
    assert log == ["copy", "event", "copy", "event", "wait"]


def test_unknown_dtype_is_refused_before_anything_is_copied() -> None:
    slices = [TensorSlice("model.norm.weight", "f7", (4,), 0, 4)]
    with pytest.raises(UnsupportedCheckpointError, match="dtype f7"):
        DeviceCopy(memoryview(bytes(64)), plan_copies(slices, head_dim=1), CPU)
