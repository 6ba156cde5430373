# SPDX-License-Identifier: Apache-2.0
"""Tells the outside what changes on the node: events for those who follow, metrics for those who scrape.

Changes of state go out at once; changes of load and of cached prompts are gathered for `LOAD_DELAY_S`, progress is
thinned to `PROGRESS_INTERVAL_S`. Decides nothing. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from typing import Final, get_args

from serverlessllm.agent.event_log import EventLog
from serverlessllm.agent.replica import Replica, ReplicaKey
from serverlessllm.arena.arena import Arena
from serverlessllm.arena.region import ArenaEntry
from serverlessllm.clock import Clock
from serverlessllm.telemetry.metrics import AgentMetrics
from serverlessllm.types import ReplicaState
from serverlessllm.wire.agent import BandwidthStatus, LoadProgressStatus, LoadResult, RegionStatus
from serverlessllm.wire.events import (
    BandwidthChanged,
    KvChanged,
    LoadEnded,
    LoadProgressed,
    RegionChanged,
    ReplicaChanged,
    SlotsChanged,
)

LOAD_DELAY_S: Final = 0.02
PROGRESS_INTERVAL_S: Final = 0.1


class Reporter:
    """What was last said about every replica, region and load, and what to say next."""

    def __init__(self, log: EventLog, metrics: AgentMetrics, arena: Arena, clock: Clock) -> None:
        self._log = log
        self._metrics = metrics
        self._arena = arena
        self._clock = clock
        self._states: dict[ReplicaKey, ReplicaState] = {}
        self._replicas: dict[ReplicaKey, Replica] = {}
        self._changed: set[ReplicaKey] = set()
        self._kv_changed: set[ReplicaKey] = set()
        self._flush: asyncio.TimerHandle | None = None
        self._is_arena_changed = False
        self._regions: dict[str, RegionStatus] = {}
        self._loads: dict[ReplicaKey, LoadProgressStatus] = {}
        self._progress_s: dict[ReplicaKey, float] = {}
        self._slots = SlotsChanged({}, {})

    @property
    def loads(self) -> list[LoadProgressStatus]:
        """The loads under way, as last reported."""
        return list(self._loads.values())

    def close(self) -> None:
        """Say nothing more."""
        if self._flush is not None:
            self._flush.cancel()

    def replica_changed(self, replica: Replica) -> None:
        """A replica's state, or its number of requests, is another."""
        key = replica.key
        known = self._states.get(key)
        if known == replica.state:
            self._changed.add(key)
            self._flush_soon()
            return
        if replica.state == "gone":
            if known is None:
                return  # said before; its worker has ended by now
            del self._states[key], self._replicas[key]
            if replica.was_lost:
                self._metrics.worker_deaths.labels(replica.engine).inc()
        else:
            self._states[key], self._replicas[key] = replica.state, replica
        self._publish(replica)
        counts = Counter(self._states.values())
        for state in get_args(ReplicaState):
            if state != "gone":
                self._metrics.replicas.labels(state).set(counts[state])

    def kv_changed(self, replica: Replica) -> None:
        """A replica caches other prompt chunks than before."""
        self._kv_changed.add(replica.key)
        self._flush_soon()

    def regions_changed(self) -> None:
        """The arena holds something new, or no longer, or a pin changed: look soon, off the road of a request."""
        self._is_arena_changed = True
        self._flush_soon()

    def region_dropped(self, revision: str) -> None:
        """A region left the arena because somebody asked for it."""
        self._regions.pop(revision, None)
        gone = RegionStatus(revision, nbytes=0, is_complete=False, is_pinned=False)
        self._log.publish(RegionChanged(gone, self._arena.used_bytes))
        self.regions_changed()

    def load_progressed(
        self, key: ReplicaKey, phase: str, done_bytes: int, total_bytes: int, eta_s: float
    ) -> None:
        """A load is in `phase` (queue, read, bind) and this far; a new phase is told at once."""
        before = self._loads.get(key)
        load = LoadProgressStatus(key.model, key.revision, phase, done_bytes, total_bytes, eta_s)
        self._loads[key] = load
        now_s = self._clock.monotonic_s()
        is_news = before is None or before.phase != phase
        if is_news or now_s - self._progress_s[key] >= PROGRESS_INTERVAL_S:
            self._progress_s[key] = now_s
            self._log.publish(LoadProgressed(load))

    def load_succeeded(self, key: ReplicaKey, result: LoadResult, engine: str) -> None:
        """A load is over, its replica ready."""
        self._metrics.loads.labels("ok").inc()
        self._end_load(key, None, result)
        self._metrics.load_seconds.labels(result.tier).observe((result.fetch_ms + result.read_ms) / 1e3)
        self._metrics.bind_seconds.labels(engine).observe(result.bind_ms / 1e3)
        if result.tier != "dram":
            self._metrics.read_bytes.labels(result.tier).inc(result.nbytes)

    def warmed(self, key: ReplicaKey, result: LoadResult) -> None:
        """Bytes were brought into DRAM, and no replica was made."""
        self._end_load(key, None, result)
        self._metrics.load_seconds.labels(result.tier).observe((result.fetch_ms + result.read_ms) / 1e3)
        if result.tier != "dram":
            self._metrics.read_bytes.labels(result.tier).inc(result.nbytes)

    def load_failed(self, key: ReplicaKey, error: str) -> None:
        """A load is over, in vain."""
        self._metrics.loads.labels("failed").inc()
        self._end_load(key, error)

    def bandwidths_changed(self, bandwidths: Sequence[BandwidthStatus]) -> None:
        """A transfer fed these estimates."""
        for bandwidth in bandwidths:
            labels = (bandwidth.tier, bandwidth.source)
            self._metrics.bandwidth.labels(*labels).set(bandwidth.mean_bytes_per_s)
            self._metrics.bandwidth_deviation.labels(*labels).set(math.sqrt(bandwidth.variance))
            if not bandwidth.source:
                self._metrics.bandwidth_possible.labels(bandwidth.tier).set(bandwidth.possible_bytes_per_s)
            self._log.publish(BandwidthChanged(bandwidth))

    def slots_seen(self, slots: SlotsChanged) -> None:
        """The slots as they are now; told when that is news."""
        if slots != self._slots:
            self._slots = slots
            self._log.publish(slots)

    def _end_load(self, key: ReplicaKey, error: str | None, result: LoadResult | None = None) -> None:
        self._loads.pop(key, None)
        self._progress_s.pop(key, None)
        self.regions_changed()
        self._log.publish(LoadEnded(key.model, key.revision, error, result))

    def _flush_soon(self) -> None:
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(LOAD_DELAY_S, self._publish_changed)

    def _publish_changed(self) -> None:
        self._flush = None
        for key in self._changed & self._replicas.keys():
            self._publish(self._replicas[key])
        self._changed.clear()
        for key in self._kv_changed & self._replicas.keys():
            stored, removed = self._replicas[key].kv.take_changes()
            self._log.publish(KvChanged(key.model, key.revision, stored, removed))
            self._count_kv_chunks(key.model)
        self._kv_changed.clear()
        if self._is_arena_changed:
            self._is_arena_changed = False
            self._publish_regions()

    def _count_kv_chunks(self, model: str) -> None:
        chunks = sum(len(r.kv.published) for key, r in self._replicas.items() if key.model == model)
        self._metrics.kv_chunks.labels(model).set(chunks)

    def _publish_regions(self) -> None:
        """What is gone was evicted: `region_dropped` tells of the rest."""
        used_bytes = self._arena.used_bytes
        found = {entry.revision: _region_status(entry) for entry in self._arena.entries()}
        for revision in self._regions.keys() - found.keys():
            self._metrics.evictions.inc()
            gone = RegionStatus(revision, nbytes=0, is_complete=False, is_pinned=False)
            self._log.publish(RegionChanged(gone, used_bytes))
        for revision, region in found.items():
            if self._regions.get(revision) != region:
                self._log.publish(RegionChanged(region, used_bytes))
        self._regions = found
        self._metrics.arena_bytes.labels("budget").set(self._arena.budget_bytes)
        self._metrics.arena_bytes.labels("used").set(used_bytes)

    def _publish(self, replica: Replica) -> None:
        self._log.publish(ReplicaChanged(replica.status()))
        of_model = [r.status() for key, r in self._replicas.items() if key.model == replica.key.model]
        model = replica.key.model
        if of_model:
            self._metrics.kv_chunks.labels(model)
            self._metrics.queue_length.labels(model).set(sum(status.num_queued for status in of_model))
            self._metrics.running.labels(model).set(sum(status.num_running for status in of_model))
        else:
            self._metrics.queue_length.remove(model)
            self._metrics.running.remove(model)
            self._metrics.kv_chunks.remove(model)


def _region_status(entry: ArenaEntry) -> RegionStatus:
    return RegionStatus(entry.revision, entry.nbytes, entry.complete, entry.pinned, entry.verified)
