# SPDX-License-Identifier: Apache-2.0
"""Copies a moving request's blocks of keys and values to its destination, where that is cheaper than computing them.

Only full blocks, the ones that are new since the last call. Knows no HTTP; `migration/cost.py` decides.
"""

from __future__ import annotations

import time

from serverlessllm.agent.inference import Inference
from serverlessllm.errors import SllmError
from serverlessllm.migration.cost import MoveLoad, ObservedRate, move_cost
from serverlessllm.sdk.standby import StandbyClient
from serverlessllm.wire.migrate import Mode, StandbyStatus
from serverlessllm.wire.standby import MAX_COPY_BYTES


class BlockCopy:
    """Of one move. `num_blocks` of `num_bytes` were copied."""

    def __init__(
        self, client: StandbyClient, move_id: str, mode: Mode, token_s: float, link: ObservedRate
    ) -> None:
        """`token_s`: seconds per prompt id at the destination; `link`: seconds per byte to it, as observed."""
        self._client = client
        self._move_id = move_id
        self._mode = mode
        self._token_s = token_s
        self._link = link
        self._next = 0
        self._is_off = mode == "recompute"
        self.num_blocks = 0
        self.num_bytes = 0

    async def run(self, inference: Inference, status: StandbyStatus) -> None:
        """Copy what is worth it before the next round. What fails is computed there instead."""
        slot = inference.replica.slot
        can_copy = slot is not None and slot.hello.copies_blocks and slot.hello.dtype == status.dtype
        if self._is_off or slot is None or not can_copy or not status.block_tokens:
            return
        if len(inference.progress) > 1:
            self._is_off = True  # choices share their prompt's blocks, but not those of their answers
            return
        num_tokens = len(inference.prompt_ids) + len(inference.progress[0].token_ids)
        if (num_tokens - 1) // status.block_tokens <= self._next:
            return
        try:
            await self._copy(inference, status, num_tokens)
        except SllmError:
            self._is_off = True

    async def _copy(self, inference: Inference, status: StandbyStatus, num_tokens: int) -> None:
        slot = inference.replica.slot
        num_left = 1
        while slot is not None and num_left > 0:
            taken = await slot.take_blocks(inference.headers.request_id, 0, self._next)
            if not taken.blocks or not self._is_worth_it(num_tokens, status, len(taken.blocks[0])):
                return
            nbytes, started_s = sum(map(len, taken.blocks)), time.perf_counter()
            num_stored = await self._client.put_blocks(self._move_id, taken.digests, taken.blocks)
            self._link.note(nbytes, time.perf_counter() - started_s)
            self.num_blocks += num_stored
            self.num_bytes += nbytes
            self._next += num_stored
            if num_stored < len(taken.blocks):
                self._is_off = True  # no room there
                return
            num_left = taken.num_left

    def _is_worth_it(self, num_tokens: int, status: StandbyStatus, block_bytes: int) -> bool:
        """Once it began it goes on: the first blocks are worthless without the others."""
        if self._mode == "copy" or self.num_blocks:
            return True
        load = MoveLoad(num_tokens, 0, status.block_tokens, block_bytes)
        cost = move_cost(
            load,
            token_s=self._token_s,
            bytes_per_s=1 / self._link.seconds_per_unit,
            message_bytes=MAX_COPY_BYTES,
        )
        return cost.mode == "copy"
