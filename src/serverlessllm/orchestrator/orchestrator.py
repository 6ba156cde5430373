# SPDX-License-Identifier: Apache-2.0
"""The front's parts, wired: what each knows of the others is seen here. No HTTP: that is `api.py`."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping

from blake3 import blake3

from serverlessllm.clock import Clock
from serverlessllm.config import Config
from serverlessllm.errors import ModelNotFoundError
from serverlessllm.metadata.records import ModelRecord, PlacementRecord
from serverlessllm.metadata.store import MetadataStore
from serverlessllm.orchestrator.adapter_rules import check_removal
from serverlessllm.orchestrator.admission import Admission
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.breakers import Breakers
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.decisions import DecisionRing
from serverlessllm.orchestrator.destinations import Destinations
from serverlessllm.orchestrator.disks import Disks
from serverlessllm.orchestrator.dispatch import Dispatch
from serverlessllm.orchestrator.farewells import Farewells
from serverlessllm.orchestrator.fetches import Fetches
from serverlessllm.orchestrator.front_gauges import FrontGauges
from serverlessllm.orchestrator.hedge import Hedge
from serverlessllm.orchestrator.holding import Holding
from serverlessllm.orchestrator.keyring import Keyring
from serverlessllm.orchestrator.members import Members
from serverlessllm.orchestrator.models import Models
from serverlessllm.orchestrator.moves import Moves
from serverlessllm.orchestrator.node_feed import NodeFeed
from serverlessllm.orchestrator.placements import Placements
from serverlessllm.orchestrator.placer import Placer
from serverlessllm.orchestrator.prefill_costs import PrefillCosts
from serverlessllm.orchestrator.proxy import Proxy
from serverlessllm.orchestrator.reconcile import Reconciler
from serverlessllm.orchestrator.registration import Registrations
from serverlessllm.orchestrator.replicas import ReplicaTable
from serverlessllm.orchestrator.request_metrics import RequestMetrics
from serverlessllm.orchestrator.request_traces import RequestTraces
from serverlessllm.orchestrator.room import Room
from serverlessllm.orchestrator.routing import Routing
from serverlessllm.orchestrator.scaling.idle import IdleScaler
from serverlessllm.orchestrator.scaling.replicas import ReplicaScaler
from serverlessllm.orchestrator.siblings import Siblings
from serverlessllm.orchestrator.tenure import Tenure
from serverlessllm.orchestrator.unbind import Unbinder
from serverlessllm.orchestrator.views import Views
from serverlessllm.orchestrator.wake import Wakes
from serverlessllm.orchestrator.waker import Waker, Woken
from serverlessllm.orchestrator.weights import Weights
from serverlessllm.sdk.ingest import IngestClient
from serverlessllm.sdk.tls import ClientTls
from serverlessllm.telemetry.metrics import OrchestratorMetrics
from serverlessllm.telemetry.spans import SpanSink
from serverlessllm.telemetry.timeline import TimelineRing
from serverlessllm.wire.events import AgentEvent, Heartbeat, KvChanged, ReplicaChanged, Snapshot

log = logging.getLogger(__name__)


class Orchestrator:
    """`agents` are addresses to follow. `remove_artifact(revision)` is given where artifacts are on our own disk.

    `spans` takes the traces of requests.
    """

    def __init__(
        self,
        config: Config,
        store: MetadataStore,
        secret: str,
        agents: list[str],
        ingest_url: str,
        clock: Clock,
        *,
        remove_artifact: Callable[[str], None] | None = None,
        tls: ClientTls | None = None,
        siblings: Siblings | None = None,
        spans: SpanSink | None = None,
    ) -> None:
        tls = tls or ClientTls(config.tls)
        self.config = config.orchestrator
        self.siblings = siblings
        self._remove_artifact = remove_artifact
        self.changes = Changes()
        self.metrics = OrchestratorMetrics()
        self.traces = RequestTraces(config.telemetry, spans, is_logging_ids=config.log_format == "json")
        self.ring = TimelineRing(self.config.timeline_ring_size, self.traces.finished)
        self.decisions = DecisionRing()
        self.feed = NodeFeed()
        costs = PrefillCosts()
        self.models = Models(store, self.changes, clock)
        self.weights = Weights(store, self.changes, clock)
        self.keyring = Keyring(store, self.changes, clock)
        self.admission = Admission(self.config, self.keyring)
        self.agents = Agents(agents, secret, clock, self, tls)
        self.gauges = FrontGauges(self.metrics, self.agents, self.models, clock)
        self._table = ReplicaTable(clock)
        self._breakers = Breakers(self.agents, self.metrics)
        self.members = Members(
            store, self.agents, self.changes, clock, lambda link: self._farewells.begin(link)
        )
        owner = _owner(config, 0 if siblings is None else siblings.index)
        self._tenure = Tenure(store, owner, clock, ttl_s=config.metadata.lease_ttl_s)
        self._placements = Placements(store, self._tenure, self._has_living_agent, clock)
        self._unbinder = Unbinder(self.agents, self._table, self._placements)
        self._reconciler = Reconciler(
            self.models, self.agents, self._table, self._placements, self._unbinder, self.members.has
        )
        self._ingest = IngestClient(ingest_url, secret, tls)
        artifacts = config.data_path / "artifacts"
        self.registrations = Registrations(self.models, self._ingest, artifacts, self.changes)
        self.fetches = Fetches(self.models, self._ingest, artifacts, self.changes)
        self._hedge: Hedge[Woken] = Hedge(self._placements, self._table, self.metrics)
        room = Room(self._table, self._unbinder, self.changes, clock)
        placer = Placer(self.feed, costs, self._current_weights, self._placements, self.decisions, clock)
        waker = Waker(
            self.models,
            self.agents,
            self._table,
            placer,
            room,
            self.changes,
            clock,
            self.fetches,
            self._breakers,
            self._hedge,
        )
        max_held, max_total = self.config.max_held_requests, self.config.max_held_total
        self.wakes = Wakes(waker, self.agents, self.metrics, max_held, max_total, clock)
        keep_alive_s = self.config.keep_alive_s
        self._idle = IdleScaler(
            self.models, self._table, self._unbinder, clock, keep_alive_s, lambda: self._tenure.is_leader
        )
        self._scaler = ReplicaScaler(
            self.models,
            self._table,
            self.feed,
            placer,
            self._placements,
            self._unbinder,
            self.metrics,
            clock,
            lambda: self._tenure.is_leader,
            lambda: self._breakers.shunned(self.agents.alive()),
        )
        self.views = Views(
            self.models, self.agents, self.wakes, self.ring, self.decisions, clock, keep_alive_s
        )
        self.disks = Disks(self.models, self.agents, self._may_remove_artifacts)
        routing = Routing(
            self._table, costs, self.decisions, self.feed, self._current_weights, clock, self._breakers
        )
        self.proxy = self._new_proxy(routing, secret, clock)
        self._destinations = Destinations(self.agents, self._table, self._placements)
        self.moves = Moves(self.models, self.agents, self._destinations, self.ring)
        self._farewells = Farewells(self.agents, self.moves, lambda: self._tenure.is_leader)
        self.is_stopping = False
        """Whether the process was told to stop: `/v1` takes nothing new, `/readyz` says no."""
        self._scaling: list[asyncio.Task[None]] = []

    def _new_proxy(self, routing: Routing, secret: str, clock: Clock) -> Proxy:
        metrics = RequestMetrics(self.metrics, clock)
        holding = Holding(self.wakes, self.agents, self.config, clock)
        dispatch = Dispatch(
            self.agents, routing, self._table, holding, self._breakers, metrics, self.config, secret, clock
        )
        return Proxy(self.models, self.ring, dispatch, metrics, self.config, secret, clock)

    def render_metrics(self) -> bytes:
        """Prometheus' text format."""
        self._breakers.show()
        return self.gauges.render()

    async def start(self) -> None:
        """Read the store, resume registrations, follow the agents.

        Raises: ConfigError when we would listen publicly without keys; MetadataUnavailableError.
        """
        await self.models.start()
        await self.weights.start()
        await self.keyring.start()
        self.admission.check_start()
        self.registrations.resume()
        await self._tenure.start()
        await self.agents.start()
        await self.members.start()
        await self._reconciler.start()
        self._scaling = [
            asyncio.create_task(self._idle.run(), name="scale to zero"),
            asyncio.create_task(self._scaler.run(), name="scale replicas"),
        ]

    async def stop(self) -> None:
        """Stop everything; what waits is told. Replicas stay with their agents."""
        for task in self._scaling:
            task.cancel()
        await asyncio.gather(*self._scaling, return_exceptions=True)
        await self.proxy.stop()
        await self._farewells.stop()
        await self.wakes.stop()
        await self._destinations.stop()
        await self._hedge.flush()
        await self.fetches.stop()
        await self.registrations.stop()
        await self._reconciler.stop()
        await self._placements.flush()
        await self.members.stop()
        await self._tenure.stop()
        await self.agents.stop()
        await self._ingest.aclose()
        await self.keyring.stop()
        await self.weights.stop()
        await self.models.stop()

    def agent_changed(self, link: AgentLink, event: AgentEvent) -> None:
        """See `AgentObserver`."""
        if isinstance(event, KvChanged):
            return  # nobody waits for these
        self._table.apply(link, event)
        self.feed.follow(link, event)
        if isinstance(event, Heartbeat):
            return
        if isinstance(event, Snapshot):
            self._reconciler.agent_joined(link)
        elif isinstance(event, ReplicaChanged) and event.replica.state == "gone":
            self._placements.settle(event.replica.model, event.replica.attempt, is_ready=False)
        self.changes.notify()

    def agent_lost(self, link: AgentLink) -> None:
        """See `AgentObserver`."""
        if self.members.has(link.agent_id):
            self.gauges.note_lost(link.agent_id, link.silent_s)
        self._table.drop_agent(link)
        self.feed.lost(link)
        self.changes.notify()

    async def stop_model(self, name: str, *, drop_bytes: bool) -> int:
        """Unbind the model's replicas; returns how many. Raises ModelNotFoundError."""
        record = self.models.get(name)
        return await self._unbinder.unbind_all(name, record.revision, drop_bytes=drop_bytes)

    async def pull_model(self, name: str) -> ModelRecord:
        """Bring the model's bytes here, sharing what is under way; the record then.

        Cancelling it stops the fetch unless others wait for it. Raises as `Fetches.join`.
        """
        record = await self.models.settled(name, _ignore)
        return record if record.state == "ready" else await self.fetches.join(name, _ignore)

    async def remove_model(self, name: str) -> None:
        """Forget the model, unbind it, and delete its artifact when it is the last that uses it.

        Raises: ModelNotFoundError; ConflictError while it has adapters; MetadataUnavailableError, then nothing was
        changed.
        """
        record = self.models.get(name)
        check_removal(name, self.models.all())
        await self.models.remove(name)
        await self.registrations.abandon(record)
        removed = ModelNotFoundError(f"model {name!r} was removed", param="model")
        self.wakes.cancel(name, removed)
        self.fetches.cancel(name, removed)
        revision = record.revision
        is_last = revision is not None and not self.models.uses(revision)
        await self._unbinder.unbind_all(name, revision, drop_bytes=is_last)
        self._table.forget(name)
        if is_last and revision is not None and self._may_remove_artifacts():
            await asyncio.to_thread(self._remove, revision)

    def _may_remove_artifacts(self) -> bool:
        """Not while something is brought: it may be about to find that very artifact."""
        is_registering = any(record.state == "registering" for record in self.models.all())
        return not is_registering and not self.fetches.is_busy()

    def _remove(self, revision: str) -> None:
        if self._remove_artifact is not None:
            self._remove_artifact(revision)

    def _has_living_agent(self, record: PlacementRecord) -> bool:
        return self.agents.by_id(record.node) is not None

    def _current_weights(self) -> Mapping[str, float]:
        return self.weights.current


def _owner(config: Config, worker: int) -> str:
    """This orchestrator's name in claims: the same after a restart, one per host, data directory and worker."""
    place = f"{socket.gethostname()}:{config.data_path.absolute()}"
    if worker:
        place += f":{worker}"
    return f"orchestrator-{blake3(place.encode()).hexdigest()[:16]}"


def _ignore(text: str, *, done_bytes: int = 0) -> None:
    """A report that nobody reads: who pulls looks at the model."""
