# SPDX-License-Identifier: Apache-2.0
"""The matrices of a block, and their products: with the weights as they lie in the arena, or with a packed copy.

A product of few rows in bfloat16 on a CPU spends half its time on bringing the matrix into the order that the kernel
reads. A copy that is in that order already (oneDNN's) makes it about 1.6 times as fast, and gives the very same bits.
Who makes such copies, and when, is `packing.py`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn.functional import linear

MAX_PACKED_ROWS: Final = 16
"""With more rows the kernel's own time hides the reordering."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Matrices (rows, in_features) whose products with one input lie side by side.

    One where they are back to back in memory; a rank's rows of each are not, and a copy would be owned weights.
    `packed`: all of them together.
    """

    parts: Sequence[torch.Tensor]
    biases: Sequence[torch.Tensor] | None = None
    packed: torch.Tensor | None = None

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """(num_rows, all parts' rows) from `inputs` (num_rows, in_features)."""
        if self.packed is not None and inputs.shape[0] <= MAX_PACKED_ROWS:
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                inputs, self.packed, self._whole_bias(), "none", [], ""
            )
            return product
        if len(self.parts) == 1:
            return linear(inputs, self.parts[0], self._whole_bias())
        products = [linear(inputs, part) for part in self.parts]
        if self.biases is not None:
            products = [product + bias for product, bias in zip(products, self.biases, strict=True)]
        return torch.cat(products, dim=-1)

    @property
    def whole(self) -> torch.Tensor:
        """All parts as one matrix, a copy where there are several."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(list(self.parts))

    def _whole_bias(self) -> torch.Tensor | None:
        if self.biases is None:
            return None
        return self.biases[0] if len(self.biases) == 1 else torch.cat(list(self.biases))


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix whose product is added to the hidden states: `transposed` (in_features, hidden_size), a view."""

    transposed: torch.Tensor
    packed: torch.Tensor | None = None

    def product(self, inputs: torch.Tensor) -> torch.Tensor:
        """(num_rows, hidden_size) from `inputs` (num_rows, in_features)."""
        if self.packed is not None and inputs.shape[0] <= MAX_PACKED_ROWS:
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                inputs, self.packed, None, "none", [], ""
            )
            return product
        return inputs @ self.transposed

    def added(self, hidden: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """`hidden` and the product, rounded once."""
        if self.packed is not None and inputs.shape[0] <= MAX_PACKED_ROWS:
            total: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                inputs, hidden, self.packed, None, "add"
            )
            return total
        return torch.addmm(hidden, inputs, self.transposed)
