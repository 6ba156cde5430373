# SPDX-License-Identifier: Apache-2.0
"""Every metric, once: name, unit, labels, help. `docs/metrics.md` is made from these declarations.

Names follow OpenTelemetry's GenAI conventions where they exist (`gen_ai_server_…`, seconds), else
`sllm_<noun>_<unit>`. Each process part owns one set in a registry of its own, so that all-in-one mode exposes the
orchestrator's and the agent's apart, as a cluster does.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from serverlessllm import __version__
from serverlessllm.telemetry.histogram import LoopHistogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
FINE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _declare_process(registry: CollectorRegistry, part: str) -> None:
    """Which version runs, and what its process takes (`process_…`, Linux)."""
    ProcessCollector(registry=registry)
    info = Gauge("sllm_build_info", "1; the labels say what runs.", ["part", "version"], registry=registry)
    info.labels(part, __version__).set(1)


class OrchestratorMetrics:
    """What the front measures."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "sllm_requests",
            "Requests finished, by endpoint, HTTP status and kind of start (cold, warm, hot).",
            ["endpoint", "status", "start"],
            registry=registry,
        )
        self.start_seconds = LoopHistogram(
            "sllm_start_seconds",
            "Duration of a phase of a start (queue, place, fetch, read, bind, prefill, first_token), by the kind "
            "of start and the tier the bytes came from.",
            ["start", "tier", "phase"],
            buckets=SECONDS,
            registry=registry,
        )
        self.time_to_first_token = LoopHistogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Arrival of a request to its first token on the wire.",
            ["model", "start"],
            buckets=SECONDS,
            registry=registry,
        )
        self.time_per_output_token = LoopHistogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time per token after the first, per request (TPOT).",
            ["model"],
            buckets=FINE_SECONDS,
            registry=registry,
        )
        self.inter_token_seconds = LoopHistogram(
            "sllm_inter_token_seconds",
            "Gap between two reads of a stream that carried tokens (ITL as the proxy sees it).",
            ["model"],
            buckets=FINE_SECONDS,
            registry=registry,
        )
        self.held_requests = Gauge(
            "sllm_held_requests", "Requests that wait for their model to wake.", ["model"], registry=registry
        )
        self.streams = Gauge("sllm_streams", "Client streams that are open.", registry=registry)
        self.wakes = Counter(
            "sllm_wakes",
            "Wake-ups by outcome (ok, failed; cancelled: nobody waited any more).",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("ok", "failed", "cancelled"):
            self.wakes.labels(outcome)
        self.scalings = Counter(
            "sllm_scalings",
            "What scaling did beyond a first replica: grow (one more), shrink (one less), warm (bytes into memory).",
            ["kind"],
            registry=registry,
        )
        self.resumes = Counter(
            "sllm_resumes",
            "Streams that broke after their first token, by reason and outcome (attached, continued, failed).",
            ["reason", "outcome"],
            registry=registry,
        )
        self.moves = Counter(
            "sllm_stream_moves",
            "Streams whose agent handed them over, by outcome (moved, returned).",
            ["outcome"],
            registry=registry,
        )
        self.move_pause_seconds = Histogram(
            "sllm_move_pause_seconds",
            "What a stream's client waited from the last id of one agent to the first of the next.",
            ["model"],
            buckets=FINE_SECONDS,
            registry=registry,
        )
        self.retries = Counter(
            "sllm_retries", "Silent retries before the first byte, by reason.", ["reason"], registry=registry
        )
        self.tokens = Counter(
            "sllm_generated_tokens", "Tokens streamed or returned to clients.", ["model"], registry=registry
        )
        self.kv_hit_ratio = Gauge(
            "sllm_kv_hit_ratio",
            "Share of prompt tokens that were not computed again, over about the last hundred requests.",
            ["model"],
            registry=registry,
        )
        self._declare_cluster(registry)
        self._declare_guards(registry)
        _declare_process(registry, "orchestrator")

    def _declare_cluster(self, registry: CollectorRegistry) -> None:
        """What is known of agents and models."""
        self.agents = Gauge("sllm_agents", "Agents, by whether they are alive.", ["alive"], registry=registry)
        self.heartbeat_age = Gauge(
            "sllm_heartbeat_age_seconds",
            "Since an agent was last heard of; one that left in good order is not shown.",
            ["agent"],
            registry=registry,
        )
        self.models = Gauge(
            "sllm_models",
            "Registered models by state (registering, remote, ready, failed).",
            ["state"],
            registry=registry,
        )

    def _declare_guards(self, registry: CollectorRegistry) -> None:
        """What keeps requests from agents that fail, and from waiting too long."""
        self.breaker_state = Gauge(
            "sllm_breaker_state",
            "Circuit breaker of an agent: 0 closed, 0.5 half open, 1 open.",
            ["agent"],
            registry=registry,
        )
        self.breaker_openings = Counter(
            "sllm_breaker_openings",
            "Times that an agent's circuit breaker opened.",
            ["agent"],
            registry=registry,
        )
        self.hedges = Counter(
            "sllm_hedges",
            "Loads that were begun on a second node for a deadline, by which node was ready first.",
            ["won"],
            registry=registry,
        )
        self.rejected = Counter(
            "sllm_rejected_requests",
            "Requests that were turned away because too many wait (429).",
            ["model"],
            registry=registry,
        )

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)


class AgentMetrics:
    """What a node measures."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.queue_length = Gauge(
            "sllm_queue_length",
            "Requests that wait in a replica's bounded queue.",
            ["model"],
            registry=registry,
        )
        self.running = Gauge(
            "sllm_running_requests", "Requests that an engine is decoding.", ["model"], registry=registry
        )
        self.replicas = Gauge(
            "sllm_replicas",
            "Replicas by state (loading, binding, ready, draining).",
            ["state"],
            registry=registry,
        )
        self.load_seconds = Histogram(
            "sllm_load_seconds",
            "Time to bring a revision's bytes into the arena, by the tier they came from.",
            ["tier"],
            buckets=SECONDS,
            registry=registry,
        )
        self.bind_seconds = Histogram(
            "sllm_bind_seconds",
            "Time for a slot to take the weights.",
            ["engine"],
            buckets=SECONDS,
            registry=registry,
        )
        self._declare_media(registry)
        self.slots = Gauge("sllm_slots", "Slots by engine and state.", ["engine", "state"], registry=registry)
        self.worker_deaths = Counter(
            "sllm_worker_deaths", "Engine workers that ended unasked.", ["engine"], registry=registry
        )
        self.kv_chunks = Gauge(
            "sllm_kv_chunks",
            "Chunks of prompts (512 bytes) that a model's replicas have cached here.",
            ["model"],
            registry=registry,
        )
        self.generated_tokens = Counter(
            "sllm_engine_tokens", "Token ids that engines sampled.", ["model"], registry=registry
        )
        _declare_process(registry, "agent")

        self.orphans = Gauge(
            "sllm_orphans",
            "Streams that go on without a connection, for a client that may come back.",
            registry=registry,
        )
        self.orphans_ended = Counter(
            "sllm_orphans_ended",
            "Streams that were without a connection, by what came of them: attached, expired, cancelled.",
            ["outcome"],
            registry=registry,
        )

        self._declare_moves(registry)

    def _declare_moves(self, registry: CollectorRegistry) -> None:
        """Running requests that go to other agents, and come from them."""
        self.migrations = Counter(
            "sllm_migrations",
            "Moves of running requests away from this agent, by who asked (asked, drain, room), how "
            "(recompute, copy) and outcome (moved, stayed, ended, unknown).",
            ["reason", "mode", "outcome"],
            registry=registry,
        )
        self.migration_rounds = Counter(
            "sllm_migration_rounds", "Rounds of ids that moves sent.", registry=registry
        )
        self.migrated_tokens = Counter(
            "sllm_migrated_tokens", "Generated ids that moves sent.", registry=registry
        )
        self.migration_copied_bytes = Counter(
            "sllm_migration_copied_bytes", "Keys and values that moves copied.", registry=registry
        )
        self.migration_prepare_seconds = Histogram(
            "sllm_migration_prepare_seconds",
            "Time that moves took beside the decoding.",
            buckets=SECONDS,
            registry=registry,
        )
        self.moving = Gauge("sllm_migrations_running", "Moves away that are under way.", registry=registry)
        self.standbys = Gauge(
            "sllm_standbys",
            "Requests that are, or lately were, prepared here while they run elsewhere.",
            registry=registry,
        )

    def _declare_media(self, registry: CollectorRegistry) -> None:
        """What is read and how fast, and what memory holds."""
        self.read_bytes = Counter(
            "sllm_read_bytes", "Bytes read, by source tier.", ["tier"], registry=registry
        )
        self.bandwidth = Gauge(
            "sllm_bandwidth_bytes_per_second",
            "Observed bandwidth (EWMA over loads) from a tier, and from each disk and origin (`source`, else empty).",
            ["tier", "source"],
            registry=registry,
        )
        self.bandwidth_deviation = Gauge(
            "sllm_bandwidth_deviation_bytes_per_second",
            "Standard deviation of the observed bandwidth (EWMA over loads).",
            ["tier", "source"],
            registry=registry,
        )
        self.bandwidth_possible = Gauge(
            "sllm_bandwidth_possible_bytes_per_second",
            "The most that a tier is known to give: by `sllm tune io`, or the fastest load.",
            ["tier"],
            registry=registry,
        )
        self.arena_bytes = Gauge(
            "sllm_arena_bytes",
            "DRAM tier: budget, used, and touched (free, with pages ready for a load).",
            ["kind"],
            registry=registry,
        )
        self.evictions = Counter(
            "sllm_evictions", "Revisions removed from the arena to make room.", registry=registry
        )
        self.disk_bytes = Gauge(
            "sllm_disk_bytes",
            "The disk of the data directory: its size, what is free, and the room that the NVMe tier may still "
            "write (by its budget).",
            ["kind"],
            registry=registry,
        )
        self.corrupt_shards = Counter(
            "sllm_corrupt_shards",
            "Shards found with wrong bytes, by where: on the disk (nvme), as an origin sent them (remote), in "
            "memory that an earlier agent left (dram).",
            ["tier"],
            registry=registry,
        )
        self.loads = Counter("sllm_loads", "Loads by outcome (ok, failed).", ["outcome"], registry=registry)
        for tier in ("nvme", "remote", "dram"):
            self.corrupt_shards.labels(tier)
        for outcome in ("ok", "failed"):
            self.loads.labels(outcome)

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
