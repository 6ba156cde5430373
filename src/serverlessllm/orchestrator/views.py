# SPDX-License-Identifier: Apache-2.0
"""What `/admin` shows, put together from the registry, the agents, the wake-ups and the timelines. Reads only."""

from __future__ import annotations

from typing import cast

from serverlessllm.clock import Clock
from serverlessllm.errors import NotFoundError
from serverlessllm.metadata.records import KeyRecord, ModelRecord
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.decisions import DecisionRing
from serverlessllm.orchestrator.models import Models
from serverlessllm.orchestrator.wake import Wakes
from serverlessllm.telemetry.timeline import Timeline, TimelineRing
from serverlessllm.types import Tier, base_name
from serverlessllm.wire.admin import (
    ConsoleSnapshot,
    KeyView,
    ModelView,
    RequestDetail,
    RequestState,
    RequestView,
)

CONSOLE_REQUESTS = 50


class Views:
    """One method per thing to show."""

    def __init__(
        self,
        models: Models,
        agents: Agents,
        wakes: Wakes,
        ring: TimelineRing,
        decisions: DecisionRing,
        clock: Clock,
        default_keep_alive_s: float,
    ) -> None:
        self._models = models
        self._agents = agents
        self._wakes = wakes
        self._ring = ring
        self._decisions = decisions
        self._clock = clock
        self._default_keep_alive_s = default_keep_alive_s

    def model(self, record: ModelRecord) -> ModelView:
        """A model with where it is now."""
        keep_alive_s = record.keep_alive_s
        return ModelView(
            name=record.name,
            source=record.source,
            engine=record.engine,
            dtype=record.dtype,
            state=record.state,
            revision=record.revision,
            nbytes=record.nbytes,
            created_s=record.created_at_s,
            keep_alive_s=self._default_keep_alive_s if keep_alive_s is None else keep_alive_s,
            options=record.options,
            error=record.error,
            progress=self._models.progress.get(record.name),
            tier=self._tier(record),
            replicas=self._agents.replicas_of(record.name),
            loads=self._agents.loads_of(record.name),
            num_held=self._wakes.num_held(record.name),
            resolved=record.resolved,
            origins=record.origins,
            min_replicas=record.min_replicas,
            max_replicas=record.max_replicas,
        )

    def models(self) -> list[ModelView]:
        """Every model, by name."""
        return [self.model(record) for record in self._models.all()]

    def request(self, request_id: str) -> RequestDetail:
        """A request's timeline, and the decision that placed its replica. Raises NotFoundError."""
        timeline = self._ring.get(request_id)
        if timeline is None:
            raise NotFoundError(f"request {request_id[:128]!r} is not among the recent ones", param="id")
        return RequestDetail(
            request=request_view(timeline),
            decision=self._decisions.get(base_name(timeline.model), timeline.attempt),
            route=self._decisions.route(timeline.request_id),
        )

    def requests(self, limit: int) -> list[RequestView]:
        """The newest requests first."""
        return [request_view(timeline) for timeline in self._ring.recent(limit)]

    def console(self) -> ConsoleSnapshot:
        """All that the console draws."""
        return ConsoleSnapshot(
            now_s=self._clock.wall_s(),
            models=self.models(),
            agents=self._agents.views(),
            requests=self.requests(CONSOLE_REQUESTS),
        )

    def _tier(self, record: ModelRecord) -> Tier | None:
        if record.state == "remote":
            return "remote"
        if record.revision is None:
            return None
        return self._agents.memory_tier(record.revision) or "nvme"


def request_view(timeline: Timeline) -> RequestView:
    """The wire's form of a timeline."""
    return RequestView(
        request_id=timeline.request_id,
        model=timeline.model,
        endpoint=timeline.endpoint,
        arrived_s=timeline.arrived_s,
        state=cast(RequestState, timeline.state),
        status=timeline.status,
        error=timeline.error,
        is_stream=timeline.is_stream,
        start=timeline.start,
        tier=timeline.tier,
        revision=timeline.revision,
        agent_id=timeline.agent_id,
        attempt=timeline.attempt,
        num_retries=timeline.num_retries,
        phases=timeline.phases(),
        ttft_ms=timeline.ttft_ms,
        e2e_ms=timeline.e2e_ms,
        nbytes=timeline.nbytes,
        gbps=timeline.gbps,
        possible_gbps=timeline.possible_gbps,
        limiting=timeline.limiting,
        load_ms=timeline.load_ms,
        prompt_tokens=timeline.prompt_tokens,
        completion_tokens=timeline.completion_tokens,
        cached_tokens=timeline.cached_tokens,
        tenant=timeline.tenant,
        trace_id="" if timeline.trace is None else timeline.trace.trace_id,
        hops=timeline.hops,
    )


def key_view(record: KeyRecord) -> KeyView:
    """A key without its hash."""
    return KeyView(
        id=record.id,
        name=record.name,
        role=record.role,
        created_s=record.created_at_s,
        shown_prefix=record.shown_prefix,
        tenant=record.tenant,
    )
