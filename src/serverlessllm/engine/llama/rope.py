# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding of half-split heads, with the linear and Llama 3 stretching. Knows no attention.

Source: Su et al., RoFormer, 2021; Llama 3.1 model card for the `llama3` frequencies.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from serverlessllm.engine.llama.kv_memory import CPU
from serverlessllm.engine.llama.rope_config import RopeConfig

_FIRST_ROWS: Final = 256


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> torch.Tensor:
    """Radians per position of each pair, (head_dim / 2,) float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _stretch_llama3(frequencies, rope)
    return frequencies


def _stretch_llama3(frequencies: torch.Tensor, rope: RopeConfig) -> torch.Tensor:
    """Long wavelengths are divided by `factor`, short ones kept, those between blended."""
    turns = rope.original_max_position * frequencies / (2 * math.pi)
    kept_ratio = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept_ratio = kept_ratio.clamp(0.0, 1.0)
    return (1 - kept_ratio) * frequencies / rope.factor + kept_ratio * frequencies


class RopeTable:
    """Cosines and signed sines by position; grows by doubling, so that binding a model computes almost nothing."""

    def __init__(
        self,
        rope: RopeConfig,
        head_dim: int,
        max_len_tokens: int,
        dtype: torch.dtype,
        device: torch.device = CPU,
    ) -> None:
        self._frequencies = inverse_frequencies(rope, head_dim)
        self._head_dim = head_dim
        self._max_len_tokens = max_len_tokens
        self._dtype = dtype
        self._device = device
        self._cos = torch.empty(0, head_dim, dtype=dtype, device=device)
        self._sin = torch.empty(0, head_dim, dtype=dtype, device=device)

    def sibling(self, rope: RopeConfig) -> RopeTable:
        """A table for the same heads and positions with other frequencies."""
        return RopeTable(rope, self._head_dim, self._max_len_tokens, self._dtype, self._device)

    def rows(self, positions: torch.Tensor, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of `positions` (num_rows,) int64, all below `end`; each (num_rows, 1, head_dim)."""
        if end > self._cos.shape[0]:
            self._grow(end)
        cos = self._cos.index_select(0, positions).unsqueeze(1)
        return cos, self._sin.index_select(0, positions).unsqueeze(1)

    def _grow(self, end: int) -> None:
        num_rows = min(max(end, 2 * self._cos.shape[0], _FIRST_ROWS), max(end, self._max_len_tokens))
        angles = torch.outer(torch.arange(num_rows, dtype=torch.float32), self._frequencies)
        cos, sin = angles.cos(), angles.sin()
        # Computed on the CPU whatever the device: both then use the very same numbers.
        self._cos = torch.cat((cos, cos), dim=-1).to(self._device, self._dtype)
        self._sin = torch.cat((-sin, sin), dim=-1).to(self._device, self._dtype)


def rotate_(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate `heads` (num_rows, num_heads, head_dim) in place; `cos`, `sin` as `RopeTable.rows` gives them."""
    halves_swapped = torch.roll(heads, heads.shape[-1] // 2, -1)
    heads.mul_(cos).addcmul_(halves_swapped, sin)
