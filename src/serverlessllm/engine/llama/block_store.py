# SPDX-License-Identifier: Apache-2.0
"""The bytes of full blocks, beside the windows in which sequences run. Knows no names and no references.

Attention on a CPU is fastest where each head's keys are one run of memory; layouts that can be mapped block by block
take 1.4 to 2 times as long in every step (benchmarks/engine/kv_cache.md). So a sequence computes in a window of its
own, as long as its context, and a block is copied once: out when it is full, in when a later sequence begins with
it.
"""

from __future__ import annotations

import mmap
from typing import Final

import torch

from serverlessllm.engine.llama.block_chain import BLOCK_TOKENS
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.kv_memory import CPU, KvMemory

_DEFAULT_SHARE: Final = 1 / 32
_MIN_DEFAULT_BYTES: Final = 256 << 20


class BlockStore:
    """Memory of shape (num_blocks, num_layers, 2, num_kv_heads, BLOCK_TOKENS, head_dim)."""

    def __init__(
        self,
        config: LlamaConfig,
        num_blocks: int,
        cache: KvCache,
        dtype: torch.dtype,
        device: torch.device = CPU,
    ) -> None:
        """`cache` holds the windows that blocks are copied from and to, on the same device."""
        shape = (num_blocks, config.num_layers, 2, config.num_kv_heads, BLOCK_TOKENS, config.head_dim)
        self._blocks = KvMemory(num_blocks * block_bytes(config, dtype), device).as_tensor(shape, dtype)
        self._cache = cache

    def save(self, block: int, slot: int, index: int) -> None:
        """Copy the `index`-th block of a window out."""
        self._blocks[block].copy_(self._window(slot, index))

    def load(self, block: int, slot: int, index: int) -> None:
        """Copy a block in, as the `index`-th of a window."""
        self._window(slot, index).copy_(self._blocks[block])

    def window_bytes(self, slot: int, index: int) -> bytes:
        """The `index`-th block of a window, as `put` takes it."""
        block = self._window(slot, index).contiguous().cpu()
        return block.view(torch.uint8).numpy().tobytes()

    def put(self, block: int, data: bytes) -> None:
        """Fill a block with the `block_bytes` bytes of another store of this model and dtype."""
        target = self._blocks[block]
        whole = torch.frombuffer(bytearray(data), dtype=target.dtype)
        target.copy_(whole.view(target.shape))

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self._blocks[0].numel() * self._blocks.element_size()

    def _window(self, slot: int, index: int) -> torch.Tensor:
        return self._cache.tokens(slot, index * BLOCK_TOKENS, (index + 1) * BLOCK_TOKENS)


def block_bytes(config: LlamaConfig, dtype: torch.dtype) -> int:
    """Bytes of one block."""
    return BLOCK_TOKENS * config.num_layers * 2 * config.num_kv_heads * config.head_dim * dtype.itemsize


def default_bytes(memory_bytes: int) -> int:
    """What the blocks of one replica may take where nothing is configured: several replicas share a machine."""
    return max(_MIN_DEFAULT_BYTES, int(memory_bytes * _DEFAULT_SHARE) // mmap.PAGESIZE * mmap.PAGESIZE)
