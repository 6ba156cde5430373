# SPDX-License-Identifier: Apache-2.0
"""What a load that has ended tells: to the bandwidth meter, and to who asked for it. Moves nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from serverlessllm.loader.bandwidth import BandwidthMeter
from serverlessllm.loader.parts import LoaderParts
from serverlessllm.loader.plan import LoadPlan
from serverlessllm.loader.report import Limit, LoadReport, SourceShare
from serverlessllm.loader.transfer.fetch import RemoteFetch
from serverlessllm.loader.transfer.run import LoadRun
from serverlessllm.types import Tier

DISK: Final = "disk"
"""The name of this node's own disk among the sources of a load."""
BUSY_RATIO: Final = 0.6
"""Share of the processor's time from which on it, not a medium, sets the pace."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One load that succeeded, and how long its bytes took."""

    plan: LoadPlan
    run: LoadRun
    fetch: RemoteFetch | None
    revision: str
    nbytes: int
    moved_s: float

    @property
    def fetched_bytes(self) -> int:
        """Bytes that came from origins."""
        return sum(share.nbytes for share in self._remote_shares)

    @property
    def tier(self) -> Tier:
        """The farthest tier that bytes came from."""
        return "remote" if self.fetched_bytes else "nvme"

    @property
    def _remote_shares(self) -> list[SourceShare]:
        return self.fetch.shares if self.fetch is not None else []

    def observe(self, meter: BandwidthMeter) -> None:
        """Feed the estimates of every source that gave something."""
        meter.observe("nvme", self.run.local_bytes, self.run.local_s, source=DISK)
        if self.fetch is not None:
            meter.observe("remote", self.fetched_bytes, self.fetch.seconds)
            for share in self._remote_shares:
                meter.observe_source(share.tier, share.source, share.nbytes, share.seconds)

    def report(self, parts: LoaderParts, *, seconds: float, plan_ms: float) -> LoadReport:
        """Achieved against possible, and the medium that set the pace. Call after `observe`."""
        is_remote = self.tier == "remote"
        shares = [SourceShare(DISK, "nvme", self.run.local_bytes, self.run.local_s), *self._remote_shares]
        return LoadReport(
            revision=self.revision,
            tier=self.tier,
            nbytes=self.nbytes,
            seconds=seconds,
            gbps=self.nbytes / max(self.moved_s, 1e-9) / 1e9,
            possible_gbps=max(parts.possible_bytes_per_s(self.tier), self._rate) / 1e9,
            limiting=self._limiting(parts.pool.num_threads),
            plan_ms=plan_ms,
            read_ms=0.0 if is_remote else self.moved_s * 1e3,
            fetch_ms=self.moved_s * 1e3 if is_remote else 0.0,
            verified_bytes=self.run.verified_bytes + self.fetched_bytes,
            sources=tuple(share for share in shares if share.nbytes),
        )

    @property
    def _rate(self) -> float:
        return self.nbytes / max(self.moved_s, 1e-9)

    def _limiting(self, num_threads: int) -> Limit:
        if self.tier == "remote":
            return "remote"
        num_cores = min(num_threads, len(os.sched_getaffinity(0)))
        if self.run.hash_s > BUSY_RATIO * num_cores * self.run.local_s:
            return "verify"
        is_touching = self.run.cpu_s - self.run.hash_s > BUSY_RATIO * self.run.local_s
        return "memory" if is_touching else "nvme"
