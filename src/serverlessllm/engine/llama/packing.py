# SPDX-License-Identifier: Apache-2.0
"""Packed copies of a model's matrices, made while it decodes. Knows no requests and no cache.

A bind makes none, so that a wake costs no more than before: a replica that has decoded for `QUIET_STEPS` steps gets
one block packed per step (~3 ms for a model of 135M), the head last. They are this process's own memory, in addition
to the arena's: at most `SHARE` of the machine's for one replica. What does not fit stays as it is. The arena's bytes
remain the weights; the copies may be dropped at any time, and no product changes by a bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import torch

from serverlessllm.engine.llama.matrices import Matrix, Stack
from serverlessllm.engine.llama.weights import LayerWeights, LlamaWeights

QUIET_STEPS: Final = 32
"""Replicas that answer briefly and sleep again never pay."""
SHARE: Final = 1 / 32
_ROWS_HINT: Final = 8


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there is something to gain: float32 products take weights as they are."""
    return device.type == "cpu" and dtype == torch.bfloat16 and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def default_budget_bytes() -> int:
    """What one replica's copies may take."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * SHARE)


class Packer:
    """`note_step` after each decoding step; `weights` are then what to compute with."""

    def __init__(self, weights: LlamaWeights, budget_bytes: int) -> None:
        self.weights = weights
        self._plain = weights
        self._budget_bytes = budget_bytes
        self._num_steps = 0
        self._num_packed = 0
        self._is_done = False
        self.packed_bytes = 0

    def note_step(self) -> bool:
        """Pack the next part if its time has come; whether `weights` changed."""
        self._num_steps += 1
        if self._is_done or self._num_steps <= QUIET_STEPS:
            return False
        layers = self.weights.layers
        if self._num_packed < len(layers):
            layer = layers[self._num_packed]
            if not self._take(_matrices(layer)):
                return False
            packed = [*layers[: self._num_packed], _packed(layer), *layers[self._num_packed + 1 :]]
            self.weights = replace(self.weights, layers=packed)
            self._num_packed += 1
            return True
        self._is_done = True
        head = self.weights.head
        if not self._take(head.parts):
            return False
        self.weights = replace(self.weights, head=_packed_stack(head))
        return True

    def drop(self) -> None:
        """Compute with the plain weights, and begin anew."""
        self.weights = self._plain
        self._num_steps = self._num_packed = self.packed_bytes = 0
        self._is_done = False

    def _take(self, matrices: Iterable[torch.Tensor]) -> bool:
        nbytes = sum(matrix.numel() * matrix.itemsize for matrix in matrices)
        if self.packed_bytes + nbytes > self._budget_bytes:
            self._is_done = True
            return False
        self.packed_bytes += nbytes
        return True


def _matrices(layer: LayerWeights) -> list[torch.Tensor]:
    return [*layer.qkv.parts, *layer.gate_up.parts, layer.o.transposed, layer.down.transposed]


def _packed(layer: LayerWeights) -> LayerWeights:
    return replace(
        layer,
        qkv=_packed_stack(layer.qkv),
        o=_packed_matrix(layer.o),
        gate_up=_packed_stack(layer.gate_up),
        down=_packed_matrix(layer.down),
    )


def _packed_stack(stack: Stack) -> Stack:
    return replace(stack, packed=_reordered(stack.whole))


def _packed_matrix(matrix: Matrix) -> Matrix:
    return replace(matrix, packed=_reordered(matrix.transposed.t()))


def _reordered(matrix: torch.Tensor) -> torch.Tensor:
    """A copy of (out_features, in_features) in the order that oneDNN's kernels read."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix, _ROWS_HINT)
    return packed
