# SPDX-License-Identifier: Apache-2.0
"""One rank among those that compute a model together: what it has of it, and how parts become a whole.

Attention heads, the columns of the MLP and the rows of the head are divided; embeddings and norms are on every rank.
Each block's two products are summed over the ranks, in float32; logits are joined on rank 0, which samples and tells
the others the ids: so all ranks go through the same schedule. Knows no weights and no requests.

Ranks meet in `RankGroup.meet`, through a file in their slot's directory, before a model is known; gloo connects them
over the loopback interface.
Source: Megatron-LM (Shoeybi et al., 2019), section 3.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import torch
from torch import distributed

from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.errors import UnsupportedCheckpointError

SILENCE_S: Final = 120.0
"""A rank that does not take part for this long has stopped: the others end."""
_WARM_ROWS: Final = (1, 64)


class RankGroup:
    """`meet` once, in every rank at about the same time; then the same calls in the same order in all of them."""

    def __init__(self, rank: int, world_size: int) -> None:
        """Made by `meet`; without it, only `config_of`, `head_rows` may be called."""
        self.rank = rank
        self.world_size = world_size

    @classmethod
    def meet(cls, rank: int, world_size: int, directory: Path) -> RankGroup:
        """Connect to the other ranks, which name the same `directory`. Raises: RuntimeError when they do not come."""
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{directory.absolute()}/ranks",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=SILENCE_S),
        )
        group = cls(rank, world_size)
        for num_rows in _WARM_ROWS:
            group.summed(torch.zeros(num_rows, 64))
        group.share([0] if rank == 0 else None, 1)
        return group

    def config_of(self, config: LlamaConfig) -> LlamaConfig:
        """What this rank computes of a model. Key heads that are fewer than the ranks are on several of them.

        Raises: UnsupportedCheckpointError for heads or a width that the ranks cannot share evenly.
        """
        size, num_kv_heads = self.world_size, config.num_kv_heads
        self._check_even("num_attention_heads", config.num_heads)
        self._check_even("intermediate_size", config.intermediate_size)
        if size % num_kv_heads:
            self._check_even("num_key_value_heads", num_kv_heads)
        return replace(
            config,
            num_heads=config.num_heads // size,
            num_kv_heads=max(1, num_kv_heads // size),
            intermediate_size=config.intermediate_size // size,
        )

    def head_rows(self, head: torch.Tensor) -> torch.Tensor:
        """This rank's rows of the head's matrix (vocab_size, hidden_size), a view; where they do not divide evenly
        all of them on rank 0, none on the others.
        """
        if len(head) % self.world_size:
            return head if self.rank == 0 else head[:0]
        return head.tensor_split(self.world_size)[self.rank]

    def summed(self, product: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' products, of the same shape and dtype, the very same numbers on every rank."""
        total = product.float()
        distributed.all_reduce(total)
        return total.to(product.dtype)

    def joined(self, logits: torch.Tensor, vocab_size: int) -> torch.Tensor:
        """Rank 0: the parts (num_rows, rows of the head) side by side, (num_rows, vocab_size); others: no row."""
        if vocab_size % self.world_size:
            return logits if self.rank == 0 else logits[:0]
        part = logits.float().contiguous()
        if self.rank != 0:
            distributed.gather(part, dst=0)
            return logits[:0]
        parts = [torch.empty_like(part) for _ in range(self.world_size)]
        distributed.gather(part, parts, dst=0)
        return torch.cat(parts, dim=-1)

    def share(self, token_ids: Sequence[int] | None, num: int) -> list[int]:
        """Rank 0's `num` ids, on every rank."""
        if not num:
            return []
        shared = torch.zeros(num, dtype=torch.int64) if token_ids is None else torch.tensor(token_ids)
        distributed.broadcast(shared, 0)
        ids: list[int] = shared.tolist()
        return ids

    def _check_even(self, field: str, number: int) -> None:
        if number % self.world_size:
            raise UnsupportedCheckpointError(
                f"config.json: {field}: {number} do not divide among {self.world_size} ranks; register the model "
                "with another --tensor-parallel",
                param=field,
                source="engine",
            )
