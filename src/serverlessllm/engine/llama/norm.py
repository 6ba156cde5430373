# SPDX-License-Identifier: Apache-2.0
"""Root-mean-square normalisation in few kernels. Knows no model.

On the CPU `rms_norm` is composed of nine kernels, which makes it a tenth of a step; `layer_norm` is one. The layer
norm of a row beside its own negation has mean zero and the row's mean square as variance: its first half is the
row's root-mean-square norm, exactly. A GPU has `rms_norm` as one kernel.

Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019; the mirrored row is ours.
"""

from __future__ import annotations

import torch
from torch.nn.functional import layer_norm, rms_norm


class RmsNorm:
    """One norm of a model. The checkpoint's weight is first read when it is first needed: pages of a region that
    were just written are slow to map, and a bind would touch one for every norm.
    """

    __slots__ = ("_eps", "_is_offset", "_mirrored", "_size", "_weight")

    def __init__(self, weight: torch.Tensor, eps: float, *, is_offset: bool) -> None:
        """Made by `of`."""
        self._weight = weight
        self._size = weight.shape[0]
        self._eps = eps
        self._is_offset = is_offset
        self._mirrored: torch.Tensor | None = None

    @classmethod
    def of(cls, weight: torch.Tensor, eps: float, *, is_offset: bool = False) -> RmsNorm:
        """From the checkpoint's `weight` (size,), which on a GPU may still be arriving.

        `is_offset`: it is what is added to one; on a GPU it must be there.
        """
        if is_offset and weight.is_cuda:
            weight, is_offset = weight.float() + 1.0, False
        return cls(weight, eps, is_offset=is_offset)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Normalise `rows` (num_rows, size); the result is a strided view, as matrix products take it."""
        if rows.is_cuda:
            normed = rms_norm(rows.to(self._weight.dtype), (self._size,), self._weight, self._eps)
            return normed.to(rows.dtype)
        weight = self._mirrored if self._mirrored is not None else self._mirror()
        mirrored = torch.cat((rows, -rows), dim=-1)
        return layer_norm(mirrored, (2 * self._size,), weight, None, self._eps).narrow(-1, 0, self._size)

    def _mirror(self) -> torch.Tensor:
        """(2 * size,): the weight, followed by zeros for the mirrored half; a small copy, made once."""
        # An offset is not added in bfloat16, which would round it away.
        weight = self._weight.float() + 1.0 if self._is_offset else self._weight
        self._mirrored = torch.cat((weight, torch.zeros_like(weight)))
        return self._mirrored
