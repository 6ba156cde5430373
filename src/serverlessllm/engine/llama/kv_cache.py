# SPDX-License-Identifier: Apache-2.0
"""Keys and values of running sequences: one contiguous window per slot. Knows no requests and no blocks.

Never zeroed: attention masks what it must not see (`kv_memory.py` says where the memory comes from).
"""

from __future__ import annotations

from typing import Final

import torch

from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.kv_memory import CPU, KvMemory

_KEEP_BYTES: Final = 16 << 20
"""A freed slot keeps its pages for the next sequence unless it has touched more than this."""


class KvCache:
    """Cache of shape (num_slots, num_layers, 2, num_kv_heads, max_len_tokens, head_dim)."""

    def __init__(
        self,
        config: LlamaConfig,
        num_slots: int,
        max_len_tokens: int,
        dtype: torch.dtype,
        device: torch.device = CPU,
    ) -> None:
        shape = (num_slots, config.num_layers, 2, config.num_kv_heads, max_len_tokens, config.head_dim)
        num_elements = (
            num_slots * config.num_layers * 2 * config.num_kv_heads * max_len_tokens * config.head_dim
        )
        nbytes = num_elements * dtype.itemsize
        self._memory = KvMemory(nbytes, device)
        self._slot_bytes = nbytes // num_slots
        self._token_bytes = self._slot_bytes // max_len_tokens
        cache = self._memory.as_tensor(shape, dtype)
        self._windows = cache.unbind(0)
        self._keys = cache.select(2, 0).unbind(1)
        self._values = cache.select(2, 1).unbind(1)
        self._by_row = cache.permute(1, 0, 4, 2, 3, 5).unbind(0)

    def write(self, layer: int, slots: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> None:
        """Store `rows` (num_rows, 2, num_kv_heads, head_dim) at `slots` and `positions`, (num_rows,) int64."""
        self._by_row[layer].index_put_((slots, positions), rows)

    def keys(self, layer: int) -> torch.Tensor:
        """View (num_slots, num_kv_heads, max_len_tokens, head_dim)."""
        return self._keys[layer]

    def values(self, layer: int) -> torch.Tensor:
        """View (num_slots, num_kv_heads, max_len_tokens, head_dim)."""
        return self._values[layer]

    def tokens(self, slot: int, start: int, end: int) -> torch.Tensor:
        """View (num_layers, 2, num_kv_heads, end - start, head_dim) of some tokens of one slot."""
        return self._windows[slot][:, :, :, start:end]

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of one slot to another."""
        self.tokens(target, 0, num_tokens).copy_(self.tokens(source, 0, num_tokens))

    def release(self, slot: int, num_tokens: int) -> None:
        """The sequence of `slot`, which held `num_tokens`, is gone; give large memory back to the system."""
        if num_tokens * self._token_bytes <= _KEEP_BYTES:
            return
        self._memory.give_back(slot * self._slot_bytes, (slot + 1) * self._slot_bytes)
