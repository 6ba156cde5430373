# SPDX-License-Identifier: Apache-2.0
"""What a load tells while it runs and when it is done. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from serverlessllm.types import Tier

Limit = Literal["none", "nvme", "remote", "memory", "verify"]
"""none: nothing was moved · nvme, remote: that medium set the pace · memory: touching fresh pages did ·
verify: comparing bytes with their digests did."""


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """`eta_s` counts from now, at this load's pace so far. The first `num_ready_shards` to arrive are whole.

    `is_fetching`: some of the bytes come from origins.
    """

    revision: str
    done_bytes: int
    total_bytes: int
    eta_s: float
    num_ready_shards: int = 0
    is_fetching: bool = False


@dataclass(frozen=True, slots=True)
class SourceShare:
    """What one source gave to a load: `nbytes` within `seconds`, at the same time as the others."""

    source: str
    tier: Tier
    nbytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Achieved against possible. `tier` is the farthest that bytes came from; dram: they were there.

    `gbps` is nbytes over `fetch_ms` + `read_ms`, in 10⁹ bytes per second. `possible_gbps` is the most that this tier
    is known to give: what `sllm tune io` measured of the disk, or the fastest load that this process has seen, this
    one included, so that without a measurement the first load is its own reference.
    `fetch_ms` is the time of a load with remote bytes, `read_ms` of one without; the other is 0. `plan_ms` covers
    planning, opening files, eviction and allocation; `seconds` all from the call that started the load.
    `verified_bytes` were compared with their digests on their way.
    """

    revision: str
    tier: Tier
    nbytes: int
    seconds: float
    gbps: float
    possible_gbps: float
    limiting: Limit
    plan_ms: float
    read_ms: float
    fetch_ms: float = 0.0
    verified_bytes: int = 0
    sources: tuple[SourceShare, ...] = ()

    def __str__(self) -> str:
        """One line for the log."""
        return (
            f"loaded {self.revision} from {self.tier}: {self.nbytes} bytes in {self.seconds:.3f} s, "
            f"{self.gbps:.2f} of {self.possible_gbps:.2f} GB/s possible, limited by {self.limiting}"
        )


OnLoadProgress = Callable[[LoadProgress], None]
OnCorrupt = Callable[[Tier, int], None]
"""Where shards were found with wrong bytes, and how many: on the disk (nvme), from an origin (remote), in dram."""
