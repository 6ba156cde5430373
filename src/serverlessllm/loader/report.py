# SPDX-License-Identifier: Apache-2.0
"""What a load tells while it runs and when it is done. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from serverlessllm.types import Tier

Limit = Literal["none", "nvme", "memory"]
"""none: nothing was moved · nvme: the device set the pace · memory: touching fresh pages did."""


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """`eta_s` counts from now, at this load's pace so far. The first `num_ready_shards` shards are whole."""

    revision: str
    done_bytes: int
    total_bytes: int
    eta_s: float
    num_ready_shards: int = 0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Achieved against possible. `tier` is where the bytes came from; dram: they were there.

    `gbps` is nbytes over `read_ms`, in 10⁹ bytes per second. `possible_gbps` is the fastest load from this tier
    that this process has seen, this one included: the first load is its own reference. `plan_ms` covers
    planning, opening files, eviction and allocation; `seconds` all from the call that started the load.
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


OnLoadProgress = Callable[[LoadProgress], None]
