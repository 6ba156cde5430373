# SPDX-License-Identifier: Apache-2.0
"""Root-mean-square normalisation in few kernels. Knows no model.

On the CPU `rms_norm` is composed of nine kernels, which makes it a tenth of a step; `layer_norm` is one. The layer
norm of a row beside its own negation has mean zero and the row's mean square as variance: its first half is the
row's root-mean-square norm, exactly. A GPU has `rms_norm` as one kernel.

Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019; the mirrored row is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import layer_norm, rms_norm


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """`weight` (2 * size,): the checkpoint's, followed by zeros for the mirrored half; on a GPU (size,)."""

    weight: torch.Tensor
    size: int
    eps: float

    @classmethod
    def of(cls, weight: torch.Tensor, eps: float, *, is_offset: bool = False) -> RmsNorm:
        """From the checkpoint's `weight` (size,): a small copy, or on a GPU itself, which may still be arriving.

        `is_offset`: it is what is added to one, and must be there.
        """
        if is_offset:
            weight = weight.float() + 1.0  # not in bfloat16, which would round it away
        if weight.is_cuda:
            return cls(weight, weight.shape[0], eps)
        return cls(torch.cat((weight, torch.zeros_like(weight))), weight.shape[0], eps)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Normalise `rows` (num_rows, size); the result is a strided view, as matrix products take it."""
        if rows.is_cuda:
            normed = rms_norm(rows.to(self.weight.dtype), (self.size,), self.weight, self.eps)
            return normed.to(rows.dtype)
        mirrored = torch.cat((rows, -rows), dim=-1)
        return layer_norm(mirrored, (2 * self.size,), self.weight, None, self.eps).narrow(-1, 0, self.size)
