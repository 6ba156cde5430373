# SPDX-License-Identifier: Apache-2.0
"""Where a rank's part of every tensor lies in one buffer on its device, and which bytes of the region it is.

One buffer, so that a model is one allocation, and a group's parts are as adjacent there as in the region: the fused
matrix stays a plain view. Pure: numbers only, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from serverlessllm.engine.copy_plan import CopyRectangle, plan_copies
from serverlessllm.wire.worker import ModelLayout, TensorGroup, TensorSlice

ALIGN_BYTES: Final = 64
"""As in the artifact, so that gaps between tensors are the same on both sides and runs of tensors copy as one."""


@dataclass(frozen=True, slots=True)
class PlacedCopy:
    """A rectangle and where its first byte goes; its rows lie back to back there."""

    rectangle: CopyRectangle
    target_offset: int


@dataclass(frozen=True, slots=True)
class ByteRun:
    """Bytes that are adjacent on both sides."""

    source_offset: int
    target_offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class DeviceLayout:
    """A rank's buffer. `layout` describes it as `ModelLayout` describes a region; `shards` are in execution order."""

    nbytes: int
    layout: ModelLayout
    shards: dict[str, list[PlacedCopy]]


def plan_device(layout: ModelLayout, *, head_dim: int, rank: int = 0, world_size: int = 1) -> DeviceLayout:
    """Place every tensor of a region for one rank.

    Raises: UnsupportedCheckpointError for a dimension that the ranks cannot share evenly; ValueError for a rank
    outside the world.
    """
    followers = {member for group in layout.groups for member in group.members[1:]}
    shards: dict[str, list[PlacedCopy]] = {}
    slices: list[TensorSlice] = []
    end = 0
    plan = plan_copies(layout.tensors, head_dim=head_dim, rank=rank, world_size=world_size)
    for shard, rectangles in plan.items():
        for rectangle in rectangles:
            if rectangle.name not in followers:
                end = -(-end // ALIGN_BYTES) * ALIGN_BYTES
            shards.setdefault(shard, []).append(PlacedCopy(rectangle, end))
            slices.append(
                TensorSlice(rectangle.name, rectangle.dtype, rectangle.target_shape, end, rectangle.nbytes)
            )
            end += rectangle.nbytes
    placed = ModelLayout(layout.architecture, slices, _groups(layout.groups, slices), layout.aliases)
    return DeviceLayout(end, placed, shards)


def byte_runs(copies: Iterable[PlacedCopy]) -> tuple[list[ByteRun], list[PlacedCopy]]:
    """What can be copied as plain bytes, merged with its neighbours, and the strided rest.

    Padding between two tensors that is equally long on both sides is copied with them.
    """
    runs: list[ByteRun] = []
    strided: list[PlacedCopy] = []
    for copy in copies:
        rectangle = copy.rectangle
        if not rectangle.is_contiguous:
            strided.append(copy)
            continue
        run = ByteRun(rectangle.first_byte, copy.target_offset, rectangle.nbytes)
        if runs and _follows(runs[-1], run):
            first = runs[-1]
            runs[-1] = ByteRun(
                first.source_offset,
                first.target_offset,
                run.source_offset + run.nbytes - first.source_offset,
            )
        else:
            runs.append(run)
    return runs, strided


def _follows(first: ByteRun, second: ByteRun) -> bool:
    gap = second.source_offset - first.source_offset - first.nbytes
    return 0 <= gap < ALIGN_BYTES and second.target_offset - first.target_offset == gap + first.nbytes


def _groups(groups: Sequence[TensorGroup], slices: Sequence[TensorSlice]) -> list[TensorGroup]:
    placed = {tensor.name: tensor for tensor in slices}
    return [
        TensorGroup(
            group.kind,
            group.members,
            placed[group.members[0]].offset,
            sum(placed[member].nbytes for member in group.members),
        )
        for group in groups
    ]
