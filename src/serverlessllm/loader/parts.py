# SPDX-License-Identifier: Apache-2.0
"""What all loads of a node share. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serverlessllm.arena.arena import Arena
from serverlessllm.clock import Clock
from serverlessllm.loader.bandwidth import BandwidthMeter
from serverlessllm.loader.disk.local_copy import SourceOpener
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.disk.trust import DiskTrust
from serverlessllm.loader.dram_room import DramRoom
from serverlessllm.loader.io_settings import IoSettings
from serverlessllm.loader.manifest import OriginOpener
from serverlessllm.loader.transfer.read_pool import ReadPool
from serverlessllm.loader.transfer.threads import LoaderThreads
from serverlessllm.types import Tier


@dataclass(frozen=True, slots=True)
class LoaderParts:
    """`in_use` are the revisions whose copies on disk must stay: loading, or pinned in DRAM."""

    arena: Arena
    nvme: NvmeTier
    clock: Clock
    io: IoSettings
    threads: LoaderThreads
    pool: ReadPool
    meter: BandwidthMeter
    trust: DiskTrust
    room: DramRoom
    open_source: SourceOpener
    open_origin: OriginOpener | None
    num_fetch_workers: int
    in_use: Callable[[], set[str]]

    def possible_bytes_per_s(self, tier: Tier) -> float:
        """The most that `tier` is known to give, 0 when nothing is known."""
        measured = self.io.possible_bytes_per_s if tier == "nvme" else 0.0
        return max(measured, self.meter.best_bytes_per_s(tier))
