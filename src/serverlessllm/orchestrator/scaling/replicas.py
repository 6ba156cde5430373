# SPDX-License-Identifier: Apache-2.0
"""More replicas where queues say so, fewer where they do not, and bytes brought nearer while demand rises.

Of several orchestrators the leader does it, by what all agents tell. The first replica is not its business: whoever
holds a request wakes it. A model has at most one replica per agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final

from serverlessllm.clock import Clock
from serverlessllm.errors import SllmError
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.models import Models
from serverlessllm.orchestrator.node_feed import NodeFeed
from serverlessllm.orchestrator.placement.decide import Decision
from serverlessllm.orchestrator.placement.terms.load import DRAM
from serverlessllm.orchestrator.placements import FIRST_REPLICA, Placements, free_replica
from serverlessllm.orchestrator.placer import Placer
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.orchestrator.scaling.rules import Load, has_spare, is_rising, wait_s
from serverlessllm.orchestrator.unbind import Unbinder
from serverlessllm.telemetry.metrics import OrchestratorMetrics

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
NUM_LOOKS: Final = 2
"""A queue must be long so often in a row: one burst that drains by itself is no reason."""
SPARE_S: Final = 10.0
"""A replica must have been spare for so long before it goes."""
AGAIN_S: Final = 2.0
"""Pause after an attempt that failed."""
WORTH: Final = 0.25
"""Warming may cost others at most this share of the seconds that it saves."""


class ReplicaScaler:
    """`run` until cancelled."""

    def __init__(
        self,
        models: Models,
        table: ReplicaTable,
        feed: NodeFeed,
        placer: Placer,
        placements: Placements,
        unbinder: Unbinder,
        metrics: OrchestratorMetrics,
        clock: Clock,
        is_leader: Callable[[], bool],
        shunned: Callable[[], frozenset[str]],
    ) -> None:
        """`shunned()`: ids of agents on which nothing should be loaded now."""
        self._models = models
        self._table = table
        self._feed = feed
        self._placer = placer
        self._placements = placements
        self._unbinder = unbinder
        self._metrics = metrics
        self._clock = clock
        self._is_leader = is_leader
        self._shunned = shunned
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._num_long: dict[str, int] = {}
        self._spare_since_s: dict[str, float] = {}
        self._not_before_s: dict[str, float] = {}

    async def run(self) -> None:
        """Look at every model now and then."""
        try:
            while True:
                if self._is_leader():
                    self._look_at_all()
                await asyncio.sleep(LOOK_S)
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    def _look_at_all(self) -> None:
        for record in self._models.all():
            if record.state != "ready" or record.revision is None or record.name in self._busy:
                continue
            if self._clock.monotonic_s() < self._not_before_s.get(record.name, 0.0):
                continue
            try:
                self._look(record)
            except Exception:
                log.exception("scaling of %s failed; going on", record.name)

    def _look(self, record: ModelRecord) -> None:
        replicas = self._table.ready(record.name, record.revision)
        if len(replicas) < record.min_replicas:
            self._grow(record, replicas)
            return
        if not replicas:
            return
        loads = [Load(replica.num_requests, replica.num_seats, replica.request_s) for replica in replicas]
        if self._is_too_few(record, replicas, loads):
            self._grow(record, replicas)
        elif self._is_one_spare(record, loads):
            victim = min(replicas, key=lambda replica: replica.num_requests)
            self._spawn(record.name, self._shrink(victim))
        else:
            self._warm_if_rising(record, loads)

    def _is_too_few(self, record: ModelRecord, replicas: list[Replica], loads: list[Load]) -> bool:
        may_grow = record.max_replicas is None or len(replicas) < record.max_replicas
        waiting_s = wait_s(loads)
        is_long = False
        if may_grow and waiting_s > 0:
            decision = self._placer.decide(record, _agents_of(replicas) | self._shunned())
            is_long = decision.picked is not None and waiting_s > _start_s(decision)
        self._num_long[record.name] = self._num_long.get(record.name, 0) + 1 if is_long else 0
        return self._num_long[record.name] >= NUM_LOOKS

    def _is_one_spare(self, record: ModelRecord, loads: list[Load]) -> bool:
        if len(loads) <= max(1, record.min_replicas) or not has_spare(loads):
            self._spare_since_s.pop(record.name, None)
            return False
        now_s = self._clock.monotonic_s()
        return now_s - self._spare_since_s.setdefault(record.name, now_s) >= SPARE_S

    def _grow(self, record: ModelRecord, replicas: list[Replica]) -> None:
        decision = self._placer.decide(record, _agents_of(replicas) | self._shunned())
        link = self._placer.link(decision)
        if link is not None:
            self._spawn(record.name, self._bring_up(record, link, decision))

    async def _bring_up(self, record: ModelRecord, link: AgentLink, decision: Decision) -> None:
        started_s = self._clock.monotonic_s()
        records = await self._placements.of(record.name)
        name = free_replica(records) if records else FIRST_REPLICA
        result, _ = await self._placer.load(record, link, decision, replica=name, started_s=started_s)
        replica = self._table.add(link, record.name, record.revision or "", result.attempt)
        replica.is_loading = result.is_streaming
        self._metrics.scalings.labels("grow").inc()
        log.info("%s has a further replica, on %s", record.name, link.agent_id)

    async def _shrink(self, victim: Replica) -> None:
        self._spare_since_s.pop(victim.model, None)
        if await self._unbinder.unbind(victim, only_idle=False):
            self._metrics.scalings.labels("shrink").inc()
            log.info("unbound %s on %s: its other replicas suffice", victim.model, victim.link.agent_id)

    def _warm_if_rising(self, record: ModelRecord, loads: list[Load]) -> None:
        now_s, revision = self._clock.monotonic_s(), record.revision or ""
        model, demand = self._feed.table.model(revision), self._feed.demand
        fast_per_s, slow_per_s = demand.fast_rate(model, now_s), demand.rate(model, now_s)
        if not is_rising(fast_per_s, slow_per_s, loads):
            return
        tiers = self._feed.table.tiers[model, : self._feed.table.num_rows]
        holders = [
            agent_id
            for row, agent_id in enumerate(self._feed.table.agent_ids)
            if tiers[row] >= DRAM or self._feed.table.bound.has(row, model)
        ]
        if len(holders) > len(loads):
            return  # the next replica has a place already
        decision = self._placer.decide(record, {*holders, *self._shunned()})
        link = self._placer.link(decision)
        if link is None or decision.picked is None:
            return
        costs_s, saves_s = (float(decision.terms_s[name][decision.picked]) for name in ("evict", "load"))
        if costs_s <= WORTH * saves_s:
            self._spawn(record.name, self._warm(record, link, decision))

    async def _warm(self, record: ModelRecord, link: AgentLink, decision: Decision) -> None:
        await self._placer.warm(record, link, decision)
        self._metrics.scalings.labels("warm").inc()
        log.info("%s is called more and more: its bytes are in memory on %s", record.name, link.agent_id)

    def _spawn(self, model: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=f"scale {model}")
        self._busy[model] = task
        task.add_done_callback(lambda done: self._ended(model, done))

    def _ended(self, model: str, task: asyncio.Task[None]) -> None:
        self._busy.pop(model, None)
        self._num_long.pop(model, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._not_before_s[model] = self._clock.monotonic_s() + AGAIN_S
            told = error.message if isinstance(error, SllmError) else repr(error)
            log.warning("scaling of %s: %s", model, told)


def _agents_of(replicas: list[Replica]) -> set[str]:
    return {replica.link.agent_id for replica in replicas}


def _start_s(decision: Decision) -> float:
    """Seconds until the picked node would have it, and what that costs others; whatever the weights are."""
    row = decision.picked or 0
    return sum(float(seconds[row]) for name, seconds in decision.terms_s.items() if name != "kv")
