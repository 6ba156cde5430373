# SPDX-License-Identifier: Apache-2.0
"""A region on its way: what somebody needs who begins to use it before it is whole.

Lives from its allocation to the load's end, on the event loop. Knows no engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.mapping import Extent
from serverlessllm.arena.pin import Pin
from serverlessllm.arena.region import Region
from serverlessllm.loader.plan import LoadableIndex, LoadPlan
from serverlessllm.loader.transfer.early import EarlyReads, Range
from serverlessllm.types import Tier

READ_TIERS: Final[tuple[Tier, ...]] = ("nvme", "remote")


class Incoming:
    """`shards` are the places of the shards in order of arrival; the first `num_ready` are whole, and verified where
    they had to be. `tier` is the farthest that bytes come from. `expected_s` is what the load should take, by
    experience.
    """

    def __init__(
        self, region: Region, index: LoadableIndex, plan: LoadPlan, arena: Arena, early: EarlyReads
    ) -> None:
        """`early` knows how fast tiers are."""
        sizes = {shard.id: shard.encodings[0].nbytes for shard in index.shards}
        self.shards: tuple[Range, ...] = tuple(
            (index.region_offset(name), sizes[name]) for name in plan.shard_ids
        )
        self.num_ready = 0
        self.tier = plan.slowest_tier
        self.total_bytes = plan.total_bytes
        self.expected_s = max(plan.tier_bytes(tier) / early.rate(tier) for tier in READ_TIERS)
        self._region = region
        self._arena = arena
        self._early = early

    @property
    def extents(self) -> Sequence[Extent]:
        """Where the region lies in the arena file."""
        return self._region.extents

    def pin(self) -> Pin:
        """Hold the region for a worker. Raises: NotFoundError when the load has failed meanwhile."""
        return self._arena.pin(self._region.revision, incomplete=True)

    async def read_early(self, ranges: Sequence[Range]) -> list[bytes]:
        """Bytes of the region before their turn, unverified. Raises: as the sources do.

        A cancelled caller does not wait for what is being read.
        """
        return await asyncio.to_thread(self._early.read, ranges)


OnIncoming = Callable[[Incoming], None]
