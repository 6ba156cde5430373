# SPDX-License-Identifier: Apache-2.0
"""The copy stage on the CPU: what arrives equals what a plain slice gives, shard by shard."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.engine.device_copy import TORCH_DTYPES, CopyEvent, DeviceCopy
from serverlessllm.engine.device_layout import DeviceLayout, plan_device
from serverlessllm.engine.host_arena import HostArena, HostBytes, HostRegion, file_runs
from serverlessllm.errors import UnsupportedCheckpointError
from serverlessllm.wire.worker import ModelLayout, TensorGroup, TensorSlice

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

    def layout(self, num_slices: int | None = None) -> ModelLayout:
        q, k = self.slices[1:3]
        group = TensorGroup("qk", (q.name, k.name), q.offset, q.nbytes + k.nbytes)
        return ModelLayout({}, self.slices[:num_slices], [group], {})

    def copy(self, rank: int = 0, world_size: int = 1, source: HostBytes | None = None) -> Copied:
        plan = plan_device(self.layout(), head_dim=HEAD_DIM, rank=rank, world_size=world_size)
        return Copied(plan, source or HostRegion(self.region))


class Copied:
    """Everything copied, and looked up by name."""

    def __init__(self, plan: DeviceLayout, source: HostBytes) -> None:
        self.copy = DeviceCopy(source, plan, CPU)
        for shard in plan.shards:
            self.copy.copy_shard(shard)
            self.copy.wait(shard)
        self.copy.finish()
        self.layout = plan.layout
        self.tensors = {
            entry.name: self.copy.buffer[entry.offset : entry.offset + entry.nbytes]
            .view(TORCH_DTYPES[entry.dtype])
            .view(entry.shape)
            for entry in plan.layout.tensors
        }


def test_one_rank_gets_every_tensor_bit_by_bit() -> None:
    model = Model()
    copied = model.copy()
    assert copied.tensors.keys() == model.tensors.keys()
    assert all(torch.equal(copied.tensors[name], value) for name, value in model.tensors.items())


@pytest.mark.parametrize("world_size", [2, 4])
def test_parts_of_all_ranks_make_up_the_model(world_size: int) -> None:
    model = Model()
    ranks = [model.copy(rank, world_size).tensors for rank in range(world_size)]
    for name, dim in (
        ("model.embed_tokens.weight", 0),
        ("model.layers.0.self_attn.q_proj.weight", 0),
        ("model.layers.0.self_attn.o_proj.weight", 1),
        ("model.layers.0.mlp.down_proj.weight", 1),
    ):
        assert torch.equal(torch.cat([tensors[name] for tensors in ranks], dim), model.tensors[name])
    norm = "model.norm.weight"
    assert all(torch.equal(tensors[norm], model.tensors[norm]) for tensors in ranks)


def test_group_is_as_adjacent_on_the_device_as_in_the_region() -> None:
    model = Model()
    copied = model.copy(rank=1, world_size=2)
    (group,) = copied.layout.groups
    fused = copied.copy.buffer[group.offset : group.offset + group.nbytes].view(torch.bfloat16).view(-1, 8)
    q, k = (model.tensors[name].chunk(2)[1] for name in group.members)
    assert torch.equal(fused, torch.cat((q, k)))


def scattered(region: memoryview, tmp_path: Path) -> HostBytes:
    """The region in extents that lie in the file in another order."""
    padded = bytes(region) + bytes(-len(region) % 128)
    extents = [(len(padded) - start - 128, 128) for start in range(0, len(padded), 128)]
    data = bytearray(4096 * -(-len(padded) // 4096))
    for number, (offset, nbytes) in enumerate(extents):
        data[offset : offset + nbytes] = padded[number * 128 : (number + 1) * 128]
    path = tmp_path / "arena"
    path.write_bytes(data)
    return HostArena.open(path, register=False).region(extents)


@pytest.mark.parametrize("world_size", [1, 2])
def test_region_in_scattered_extents_arrives_whole(world_size: int, tmp_path: Path) -> None:
    model = Model()
    ours = model.copy(world_size - 1, world_size, source=scattered(model.region, tmp_path)).tensors
    assert all(
        torch.equal(ours[name], value)
        for name, value in model.copy(world_size - 1, world_size).tensors.items()
    )


class Recorder:
    """A stream that copies at once and writes down what it was asked."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)
        self.log.append("copy")

    def record(self) -> CopyEvent:
        self.log.append("event")
        return Recorded(self.log)


class Recorded:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def wait(self) -> None:
        self.log.append("wait")

    def synchronize(self) -> None:
        self.log.append("synchronize")


def test_shard_is_one_copy_and_one_event_in_order() -> None:
    model = Model()
    stream = Recorder()
    plan = plan_device(model.layout(), head_dim=HEAD_DIM)
    copy = DeviceCopy(HostRegion(model.region), plan, CPU, stream=stream)
    for shard in ("embed", "embed", "block.0"):
        copy.copy_shard(shard)
    copy.wait("block.0")
    assert stream.log == ["copy", "event", "copy", "event", "wait"]
    with pytest.raises(KeyError):
        copy.wait("final")


def test_unknown_dtype_is_refused_before_anything_is_copied() -> None:
    layout = ModelLayout({}, [TensorSlice("model.norm.weight", "f7", (4,), 0, 4)], [], {})
    with pytest.raises(UnsupportedCheckpointError, match="dtype f7"):
        DeviceCopy(HostRegion(memoryview(bytes(64))), plan_device(layout, head_dim=1), CPU)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.data())
def test_file_runs_hold_the_bytes_of_the_region(lengths: list[int], data: st.DataObject) -> None:
    extents = [(1000 * number, length) for number, length in reversed(list(enumerate(lengths)))]
    addresses = [start + at for start, length in extents for at in range(length)]
    begin = data.draw(st.integers(0, len(addresses)))
    nbytes = data.draw(st.integers(0, len(addresses) - begin))
    runs = file_runs(extents, begin, nbytes)
    assert [start + at for start, length in runs for at in range(length)] == addresses[begin : begin + nbytes]


def test_bytes_outside_the_region_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bytes 8\.\.12 lie outside"):
        file_runs([(0, 8)], 4, 8)
