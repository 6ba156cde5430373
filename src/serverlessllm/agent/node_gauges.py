# SPDX-License-Identifier: Apache-2.0
"""Figures of a node that are looked up when somebody scrapes, rather than told when they change."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping

from serverlessllm.arena.arena import Arena
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.telemetry.metrics import AgentMetrics


class NodeGauges:
    """Slots, touched memory, and the disk."""

    def __init__(self, metrics: AgentMetrics, arena: Arena, nvme: NvmeTier) -> None:
        self._metrics = metrics
        self._arena = arena
        self._nvme = nvme

    async def render(self, slots: Mapping[str, int]) -> bytes:
        """Prometheus' text format. `slots`: `engine.state` → number."""
        for name, number in slots.items():
            engine, _, state = name.partition(".")
            self._metrics.slots.labels(engine, state).set(number)
        self._metrics.arena_bytes.labels("touched").set(self._arena.touched_free_bytes)
        for kind, nbytes in (await asyncio.to_thread(self._disk)).items():
            self._metrics.disk_bytes.labels(kind).set(nbytes)
        return self._metrics.render()

    def _disk(self) -> dict[str, int]:
        """Blocks: with a budget, every file of the tier is looked at."""
        folder = next(path for path in (self._nvme.directory, *self._nvme.directory.parents) if path.is_dir())
        usage = shutil.disk_usage(folder)
        return {"size": usage.total, "free": usage.free, "room": self._nvme.room_bytes()}
