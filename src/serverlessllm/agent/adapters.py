# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters of one replica: brought into DRAM by the node's loader, bound once, pinned until the replica is gone.

Knows no HTTP and no request: `ready` is asked before each one that names an adapter.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.pin import Pin
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.engine.slot import Slot
from serverlessllm.errors import CapacityError
from serverlessllm.loader.loader import Loader
from serverlessllm.wire.worker import LoadAdapter

MAX_ADAPTERS: Final = 64
"""Per replica: each costs every pass that has rows of it a few small products a layer."""


class Adapters:
    """What one replica's worker has bound. For one event loop."""

    def __init__(self, loader: Loader, arena: Arena) -> None:
        self._loader = loader
        self._arena = arena
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._pins: list[Pin] = []

    async def ready(self, slot: Slot, revision: str, directory: Path) -> None:
        """Return once the worker of `slot` has the adapter; who comes meanwhile shares the load.

        Raises: CapacityError when too many are bound, or DRAM has no room; CheckpointError for an artifact that is
        damaged or does not fit the model; WorkerLostError.
        """
        task = self._loads.get(revision)
        if task is None:
            if len(self._loads) >= MAX_ADAPTERS:
                raise CapacityError(
                    f"{MAX_ADAPTERS} adapters are bound to this replica; stop the model to unbind them",
                    source="agent",
                )
            task = asyncio.create_task(self._load(slot, revision, directory), name=f"adapter {revision}")
            self._loads[revision] = task
            task.add_done_callback(lambda done: self._ended(revision, done))
        await asyncio.shield(task)

    def close(self) -> None:
        """The worker is gone: let go of the bytes, which stay in DRAM until something needs the room."""
        for task in self._loads.values():
            task.cancel()
        for pin in self._pins:
            pin.close()
        self._loads.clear()
        self._pins.clear()

    async def _load(self, slot: Slot, revision: str, directory: Path) -> None:
        artifact = await asyncio.to_thread(Artifact.open, directory, expect_revision=revision)
        layout = await asyncio.to_thread(artifact.layout)
        await self._loader.load(revision, artifact)
        self._pins.append(self._arena.pin(revision))
        region = self._arena.get(revision)
        extents = [] if region is None else region.extents
        await slot.load_adapter(LoadAdapter(revision, layout, extents))

    def _ended(self, revision: str, task: asyncio.Task[None]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._loads.get(revision) is task:
            del self._loads[revision]
