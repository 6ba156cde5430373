# SPDX-License-Identifier: Apache-2.0
"""What one agent last said about itself: its snapshot and the deltas since. Pure; reads no clock."""

from __future__ import annotations

import msgspec

from serverlessllm.types import Tier
from serverlessllm.wire.agent import (
    AgentStatus,
    BandwidthStatus,
    LoadProgressStatus,
    RegionStatus,
    ReplicaStatus,
)
from serverlessllm.wire.events import (
    AgentEvent,
    BandwidthChanged,
    KvChanged,
    LoadEnded,
    LoadProgressed,
    RegionChanged,
    ReplicaChanged,
    SlotsChanged,
    Snapshot,
)


class AgentState:
    """Fed by `apply`; empty until the first snapshot. Replicas, loads and `kv` are keyed by (model, revision).

    `kv` has the names of the prompt chunks that a replica has cached.
    """

    def __init__(self) -> None:
        self._base: AgentStatus | None = None
        self._used_bytes = 0
        self.replicas: dict[tuple[str, str], ReplicaStatus] = {}
        self.loads: dict[tuple[str, str], LoadProgressStatus] = {}
        self.regions: dict[str, RegionStatus] = {}
        self.bandwidths: dict[tuple[Tier, str], BandwidthStatus] = {}
        self.kv: dict[tuple[str, str], set[int]] = {}

    @property
    def used_bytes(self) -> int:
        """Of the arena, as of the last event."""
        return self._used_bytes

    @property
    def base(self) -> AgentStatus | None:
        """The last snapshot's own fields (identity, engines, budget); its lists are out of date."""
        return self._base

    def apply(self, event: AgentEvent) -> None:
        """Take one event. Deltas before the first snapshot are harmless: the snapshot replaces everything."""
        if type(event) is KvChanged:  # by far the most frequent
            self._take_chunks(event)
            return
        match event:
            case Snapshot(status=status, kv=kv):
                self._take_snapshot(status)
                self.kv = {(item.model, item.revision): set(item.names) for item in kv}
            case ReplicaChanged(replica=replica):
                key = (replica.model, replica.revision)
                if replica.state == "gone":
                    self.replicas.pop(key, None)
                    self.kv.pop(key, None)
                else:
                    self.replicas[key] = replica
            case RegionChanged(region=region, arena_used_bytes=used_bytes):
                self._used_bytes = used_bytes
                if region.nbytes == 0:
                    self.regions.pop(region.revision, None)
                else:
                    self.regions[region.revision] = region
            case SlotsChanged(slots=slots, dtypes=dtypes):
                if self._base is not None:
                    self._base = msgspec.structs.replace(self._base, slots=slots, dtypes=dtypes)
            case LoadProgressed(load=load):
                self.loads[load.model, load.revision] = load
            case LoadEnded(model=model, revision=revision):
                self.loads.pop((model, revision), None)
            case BandwidthChanged(bandwidth=bandwidth):
                self.bandwidths[bandwidth.tier, bandwidth.source] = bandwidth
            case _:
                pass  # a heartbeat changes nothing

    def _take_snapshot(self, status: AgentStatus) -> None:
        self._base = status
        self._used_bytes = status.arena_used_bytes
        self.replicas = {(item.model, item.revision): item for item in status.replicas}
        self.loads = {(item.model, item.revision): item for item in status.loads}
        self.regions = {item.revision: item for item in status.regions}
        self.bandwidths = {(item.tier, item.source): item for item in status.bandwidths}

    def _take_chunks(self, event: KvChanged) -> None:
        key = (event.model, event.revision)
        if key in self.replicas:
            names = self.kv.setdefault(key, set())
            names.difference_update(event.removed)
            names.update(event.stored)

    def status(self) -> AgentStatus | None:
        """The whole state as of the last event; None before the first snapshot."""
        if self._base is None:
            return None
        return msgspec.structs.replace(
            self._base,
            arena_used_bytes=self._used_bytes,
            replicas=list(self.replicas.values()),
            loads=list(self.loads.values()),
            regions=list(self.regions.values()),
            bandwidths=list(self.bandwidths.values()),
        )
