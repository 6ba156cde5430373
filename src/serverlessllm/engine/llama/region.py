# SPDX-License-Identifier: Apache-2.0
"""Tensors as views of mapped bytes. Knows the layout's offsets and dtypes, not what the tensors mean.

A view costs one torch call and no memory. Where the stored dtype is not the compute dtype, or where members of a
fused matrix do not lie back to back, a copy is made and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch

from serverlessllm.engine.base import Weights
from serverlessllm.engine.host_arena import as_bytes
from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.wire.worker import TensorSlice

_DTYPES: Final = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
}


class RegionTensors:
    """Looks up tensors by name in one attached region; `copied_bytes` counts what could not be a view."""

    def __init__(
        self,
        weights: Weights,
        dtype: torch.dtype,
        *,
        is_dry: bool = False,
        copied: torch.Tensor | None = None,
    ) -> None:
        """`is_dry`: check everything, but look at no byte; the tensors are of memory that nobody has written.

        `copied`: the bytes that the layout describes, (nbytes,) uint8, where they are a copy of the region.
        """
        self._is_dry = is_dry
        self._region = as_bytes(weights.region) if copied is None else copied
        self._dtype = dtype
        self._slices = {tensor.name: tensor for tensor in weights.layout.tensors}
        self._aliases = weights.layout.aliases
        self._packed = {group.members: group.offset for group in weights.layout.groups}
        self._bases: dict[torch.dtype, torch.Tensor] = {}
        self.copied_bytes = 0

    def place(self, name: str, shape: tuple[int, ...]) -> TensorSlice:
        """Where a tensor lies. Raises as `tensor`."""
        entry = self._entry(name, shape)
        self._view(entry, entry.offset, shape)
        return entry

    def __contains__(self, name: str) -> bool:
        return self._aliases.get(name, name) in self._slices

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor in the compute dtype.

        Raises: CheckpointFormatError when it is missing, of another shape, or outside the region;
        UnsupportedCheckpointError for a dtype that cannot be computed with.
        """
        entry = self._entry(name, shape)
        return self._converted(self._view(entry, entry.offset, shape))

    def fused(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """The tensors stacked along their first dimension: one view where the layout packs them."""
        entries = [self._entry(name, shape) for name, shape in zip(names, shapes, strict=True)]
        offset = self._packed.get(tuple(entry.name for entry in entries))
        rows = sum(shape[0] for shape in shapes)
        if offset is None or not _is_back_to_back(entries, offset):
            parts = [self._view(entry, entry.offset, entry.shape) for entry in entries]
            if self._is_dry:
                return torch.empty(rows, *shapes[0][1:], dtype=self._dtype)
            stacked = torch.cat(parts)
            stacked = stacked.to(self._dtype)
            self.copied_bytes += stacked.nbytes
            return stacked
        return self._converted(self._view(entries[0], offset, (rows, *shapes[0][1:])))

    def stacked(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Sequence[torch.Tensor]:
        """What `fused` gives, in as many parts as it takes to copy nothing for the sake of fusing: here one."""
        return (self.fused(names, shapes),)

    def head_rows(self, head: torch.Tensor) -> torch.Tensor:
        """The rows of the head's matrix (vocab_size, hidden_size) that are computed here: all."""
        return head

    def _entry(self, name: str, shape: tuple[int, ...]) -> TensorSlice:
        entry = self._slices.get(self._aliases.get(name, name))
        if entry is None:
            raise malformed(name, "is missing from the checkpoint")
        if entry.shape != shape:
            raise malformed(name, f"has shape {entry.shape}; config.json asks for {shape}")
        return entry

    def rows(self, place: TensorSlice, data: bytearray) -> torch.Tensor:
        """Rows of a matrix from a copy of its bytes, in the compute dtype; `place` gives dtype and row length."""
        return torch.frombuffer(data, dtype=_DTYPES[place.dtype]).view(-1, *place.shape[1:]).to(self._dtype)

    def _view(self, entry: TensorSlice, offset: int, shape: tuple[int, ...]) -> torch.Tensor:
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            problem = (
                f"tensor {entry.name}: dtype {entry.dtype} cannot be computed with; convert to bf16 or f32"
            )
            raise UnsupportedCheckpointError(problem, param=entry.name, source="engine")
        size = dtype.itemsize
        end = offset + math.prod(shape) * size
        if offset < 0 or offset % size or end > self._region.numel():
            raise malformed(entry.name, f"bytes {offset}..{end} do not lie in the region, or are not aligned")
        if self._is_dry:
            return torch.empty(shape, dtype=self._dtype)
        return self._base(dtype).as_strided(shape, _row_major(shape), offset // size)

    def _base(self, dtype: torch.dtype) -> torch.Tensor:
        base = self._bases.get(dtype)
        if base is None:
            whole = self._region.numel() // dtype.itemsize * dtype.itemsize
            base = self._bases[dtype] = self._region[:whole].view(dtype)
        return base

    def _converted(self, view: torch.Tensor) -> torch.Tensor:
        if view.dtype == self._dtype:
            return view
        copy = view.to(self._dtype)
        self.copied_bytes += copy.nbytes
        return copy


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for size in shape[:0:-1]:
        strides.append(strides[-1] * size)
    return tuple(reversed(strides))


def _is_back_to_back(entries: Sequence[TensorSlice], offset: int) -> bool:
    for entry in entries:
        if entry.offset != offset or entry.dtype != entries[0].dtype:
            return False
        offset += entry.nbytes
    return True


def malformed(name: str, problem: str) -> CheckpointFormatError:
    """What is wrong with a tensor, as an error."""
    return CheckpointFormatError(f"tensor {name}: {problem}", param=name, source="engine")
