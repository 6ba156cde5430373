# SPDX-License-Identifier: Apache-2.0
"""Weights in memory, laid out as an artifact lays them out: groups packed, the rest on 64-byte borders."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from serverlessllm.engine.base import Weights
from serverlessllm.wire.worker import ModelLayout, TensorGroup, TensorSlice

_ALIGN_BYTES = 64
_DTYPE_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
_GROUPS = {
    "qkv": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "qkv_bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "gate_up": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
}


def _group_members(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, tuple[str, ...]]]:
    """(kind, members) of every group whose first member is among `tensors`."""
    found = []
    for name in tensors:
        for kind, suffixes in _GROUPS.items():
            if name.endswith(suffixes[0]):
                prefix = name.removesuffix(suffixes[0])
                found.append((kind, tuple(prefix + suffix for suffix in suffixes)))
    return found


def pack_region(
    architecture: Mapping[str, object],
    tensors: Mapping[str, torch.Tensor],
    aliases: Mapping[str, str] | None = None,
    *,
    pack_groups: bool = True,
) -> Weights:
    """Copy `tensors` into one buffer and describe it. Without `pack_groups`, members lie apart."""
    groups = _group_members(tensors) if pack_groups else []
    grouped = {member for _, members in groups for member in members}
    region = bytearray()
    slices: list[TensorSlice] = []
    packed: list[TensorGroup] = []

    def put(name: str) -> None:
        tensor = tensors[name].detach().contiguous()
        data = tensor.view(torch.uint8).numpy().tobytes()
        dtype = _DTYPE_NAMES[tensor.dtype]
        slices.append(TensorSlice(name, dtype, tuple(tensor.shape), len(region), len(data)))
        region.extend(data)

    def align() -> None:
        region.extend(bytes(-len(region) % _ALIGN_BYTES))

    for kind, members in groups:
        align()
        start = len(region)
        for member in members:
            put(member)
        packed.append(TensorGroup(kind, members, start, len(region) - start))
    for name in tensors:
        if name not in grouped:
            align()
            put(name)
    layout = ModelLayout(dict(architecture), slices, packed, dict(aliases or {}))
    return Weights(memoryview(bytes(region)), layout)
