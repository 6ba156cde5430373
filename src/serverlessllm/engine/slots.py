# SPDX-License-Identifier: Apache-2.0
"""All slots of an agent: one pool per engine kind, in one directory that only this agent uses.

Knows no models and no requests. The directory holds, while the pool runs, one folder per worker (socket, log)
and one log per zygote; nothing after `stop`. What an agent that was killed left behind is cleared by the next
`start`; its processes ended with it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from serverlessllm.config import EngineConfig
from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slots_kind import KindPool, KindState
from serverlessllm.errors import ConfigError
from serverlessllm.types import EngineKind


class SlotPool:
    """Primed workers of several kinds. What was measured on this machine is kept in `run_dir`'s parent."""

    def __init__(
        self, run_dir: Path, config: EngineConfig, kinds: Sequence[EngineKind], arena_path: Path | None = None
    ) -> None:
        """`arena_path` is the file that slots on a GPU page-lock while they wait."""
        self._run_dir = run_dir.absolute()
        self._kinds = {kind: KindPool(kind, self._run_dir, config, arena_path) for kind in kinds}

    async def start(self) -> None:
        """Start a zygote per kind and fill the pools in the background: `acquire` may be called at once.

        Raises: OSError when the directory cannot be made.
        """
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for kind, pool in self._kinds.items():
            for stale in self._run_dir.glob(f"{kind}-*"):
                shutil.rmtree(stale, ignore_errors=True)
            pool.start()

    async def acquire(self, kind: EngineKind, world_size: int = 1) -> Slot:
        """A primed slot: at once if one waits, else as soon as one was forked. It is yours until `discard`.

        Raises: EngineError when none can be made, ConfigError for a kind or a number of ranks that cannot be here,
        ShuttingDownError after `stop`.
        """
        if kind not in self._kinds:
            raise ConfigError(
                f"engine {kind!r} is not enabled on this node; enabled: {', '.join(self._kinds)}"
            )
        return await self._kinds[kind].acquire(world_size)

    async def discard(self, slot: Slot) -> None:
        """End a slot's worker; returns when its process, its pin and its files are gone. Idempotent."""
        await self._kinds[slot.kind].discard(slot)

    async def primed(self) -> None:
        """Wait until every kind has its configured number of slots waiting."""
        for pool in self._kinds.values():
            await pool.primed()

    def states(self) -> dict[EngineKind, KindState]:
        """Counts per kind, of this moment."""
        return {kind: pool.state() for kind, pool in self._kinds.items()}

    async def stop(self) -> None:
        """End all workers and zygotes; returns when no process and no file of theirs is left. Idempotent."""
        await asyncio.gather(*(pool.stop() for pool in self._kinds.values()))
