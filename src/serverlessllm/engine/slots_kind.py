# SPDX-License-Identifier: Apache-2.0
"""The slots of one engine kind: one maker, and a pool for each number of ranks. Knows no processes.

Single workers and the groups of `engine.tensor_parallel` wait primed from the start; groups of another size are made
when one is first asked for, and wait from then on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from serverlessllm.config import EngineConfig
from serverlessllm.engine.registry import ENGINES
from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slots_maker import SlotMaker
from serverlessllm.engine.slots_size import SizePool
from serverlessllm.errors import ConfigError, EngineError
from serverlessllm.types import TENSOR_PARALLEL_OPTION, EngineKind


@dataclass(frozen=True, slots=True)
class KindState:
    """A snapshot for `/status`: counts of slots by state. `zygote_pid` None: starting, or between two lives."""

    zygote_pid: int | None
    dtype: str | None
    num_primed: int
    num_priming: int
    num_bound: int
    num_restarts: int


class KindPool:
    """Slots of one kind: `start`, then `acquire` and `discard`, then `stop`. One event loop, no locks."""

    def __init__(
        self, kind: EngineKind, run_dir: Path, config: EngineConfig, arena_path: Path | None = None
    ) -> None:
        self._kind = kind
        self._config = config
        self._maker = SlotMaker(kind, run_dir, config, self, arena_path)
        self._sizes = {1: SizePool(self._maker, 1, config.slots)}
        if config.tensor_parallel > 1 and self._has_groups:
            self._sizes[config.tensor_parallel] = SizePool(self._maker, config.tensor_parallel, config.slots)
        self._is_stopping = False

    def start(self) -> None:
        """Start the zygote and fill the pools, in the background."""
        self._maker.start()

    async def stop(self) -> None:
        """End everything; callers that wait get ShuttingDownError."""
        self._is_stopping = True
        for pool in self._sizes.values():
            pool.close()
        await self._maker.stop()
        for pool in self._sizes.values():
            await pool.closed()

    async def acquire(self, world_size: int = 1) -> Slot:
        """A primed slot of `world_size` ranks, yours until `discard`.

        Raises: EngineError when none can be made, ConfigError for ranks that cannot be here, ShuttingDownError.
        """
        pool = self._sizes.get(world_size)
        if pool is None:
            self._check_size(world_size)
            pool = self._sizes[world_size] = SizePool(self._maker, world_size, self._config.slots)
            if self._is_stopping:
                pool.close()
        return await pool.acquire()

    async def discard(self, slot: Slot) -> None:
        """End a slot's workers; returns when they are gone. Idempotent."""
        await self._maker.end(slot)

    async def primed(self) -> None:
        """Wait until as many slots of each size wait as are configured."""
        await asyncio.gather(*(pool.primed() for pool in self._sizes.values()))

    def state(self) -> KindState:
        """Counts of this moment, over all sizes: a group counts once."""
        pools = self._sizes.values()
        return KindState(
            zygote_pid=self._maker.zygote_pid,
            dtype=self._maker.dtype,
            num_primed=sum(pool.num_primed for pool in pools),
            num_priming=sum(pool.num_priming for pool in pools),
            num_bound=sum(pool.num_bound for pool in pools),
            num_restarts=self._maker.num_restarts,
        )

    def on_ready(self) -> None:
        """See PoolEvents."""
        for pool in self._sizes.values():
            pool.on_ready()

    def on_failed(self, error: EngineError) -> None:
        """See PoolEvents."""
        for pool in self._sizes.values():
            pool.on_failed(error)

    def on_gone(self, slot_id: str) -> None:
        """See PoolEvents."""
        for pool in self._sizes.values():
            pool.on_gone(slot_id)

    @property
    def _has_groups(self) -> bool:
        return ENGINES[self._kind].rank_factory is not None and self._config.device == "cpu"

    def _check_size(self, world_size: int) -> None:
        if not self._has_groups:
            where = f"engine {self._kind!r} on {self._config.device}"
            raise ConfigError(
                f"{where} computes a model in one worker, not in {world_size}; register it with --tensor-parallel 1",
                param=TENSOR_PARALLEL_OPTION,
            )
