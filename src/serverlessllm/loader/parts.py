# SPDX-License-Identifier: Apache-2.0
"""What all loads of a node share, and how they take room on its disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import BoundedSemaphore

from serverlessllm.arena.arena import Arena
from serverlessllm.clock import Clock
from serverlessllm.loader.bandwidth import BandwidthMeter
from serverlessllm.loader.disk.local_copy import SourceOpener
from serverlessllm.loader.disk.staged_copy import StagedCopy
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.disk.trust import DiskTrust
from serverlessllm.loader.dram_room import DramRoom
from serverlessllm.loader.io_settings import IoSettings
from serverlessllm.loader.manifest import OriginOpener
from serverlessllm.loader.plan import LoadableArtifact
from serverlessllm.loader.report import OnCorrupt
from serverlessllm.loader.transfer.fetch_shares import FetchShares
from serverlessllm.loader.transfer.read_pool import ReadPool
from serverlessllm.loader.transfer.threads import LoaderThreads
from serverlessllm.types import Tier


@dataclass(frozen=True, slots=True)
class LoaderParts:
    """`in_use` are the revisions whose copies on disk must stay: loading, or pinned in DRAM.

    `copies` counts the pieces that all fetches together may hold beside the arena. `on_corrupt` hears where shards
    were wrong (`nvme`, `remote`) and how many; from any thread.
    """

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
    fetch_shares: FetchShares
    copies: BoundedSemaphore
    in_use: Callable[[], set[str]]
    on_corrupt: OnCorrupt

    def staged_copy(self, artifact: LoadableArtifact) -> StagedCopy:
        """The disk's half of a fetch of `artifact`; what is worth least on the disk makes room for it."""

        def make_room(need_bytes: int) -> None:
            self.nvme.make_room(
                artifact.revision,
                need_bytes,
                in_use=self.in_use(),
                restore_rate=self.meter.estimate("remote").mean_bytes_per_s,
            )

        return StagedCopy(self.nvme, artifact.revision, artifact.index, make_room)

    def possible_bytes_per_s(self, tier: Tier) -> float:
        """The most that `tier` is known to give, 0 when nothing is known."""
        measured = self.io.possible_bytes_per_s if tier == "nvme" else 0.0
        return max(measured, self.meter.best_bytes_per_s(tier))
