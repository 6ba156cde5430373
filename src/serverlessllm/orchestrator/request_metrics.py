# SPDX-License-Identifier: Apache-2.0
"""Feeds the metrics of requests from their timelines. Label children are kept: looking them up costs more."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Final

from prometheus_client import Counter, Histogram

from serverlessllm.clock import Clock
from serverlessllm.errors import SllmError
from serverlessllm.telemetry.metrics import OrchestratorMetrics
from serverlessllm.telemetry.timeline import Timeline
from serverlessllm.types import PHASES
from serverlessllm.wire.hop import Hop, Resumption

RETURNED: Final = "client_returned"
"""Why a stream is attached to, where its former orchestrator is the one that was lost."""
NO_TIER = "none"
"""The `tier` label of a hot start: no bytes moved."""


KV_MEMORY: Final = 0.99
"""How much of the sums behind the hit ratio outlives each further request of a model."""


_durations_ms: Final[Callable[[Timeline], tuple[float, ...]]] = attrgetter(
    *(f"{phase}_ms" for phase in PHASES)
)


class RequestMetrics:
    """One per process; called on the hot path."""

    def __init__(self, metrics: OrchestratorMetrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._read_s: dict[str, float] = {}
        self._kv_sums: dict[str, tuple[float, float]] = {}
        self._requests = lru_cache(1024)(self._new_requests)
        self._phase = lru_cache(1024)(self._new_phase)
        self._ttft = lru_cache(1024)(self._new_ttft)
        self._tpot = lru_cache(1024)(metrics.time_per_output_token.labels)
        self._gap = lru_cache(1024)(metrics.inter_token_seconds.labels)
        self._tokens = lru_cache(1024)(metrics.tokens.labels)
        self._hit_ratio = lru_cache(1024)(metrics.kv_hit_ratio.labels)

    def _new_requests(self, endpoint: str, status: int, start: str) -> Counter:
        return self._metrics.requests.labels(endpoint, str(status), start)

    def _new_phase(self, start: str, tier: str, phase: str) -> Histogram:
        return self._metrics.start_seconds.labels(start, tier, phase)

    def _new_ttft(self, model: str, start: str) -> Histogram:
        return self._metrics.time_to_first_token.labels(model, start)

    def retried(self, timeline: Timeline, cause: SllmError) -> None:
        """A silent retry before the first byte."""
        timeline.num_retries += 1
        self._metrics.retries.labels(cause.code).inc()

    def resumed(self, timeline: Timeline, cause: SllmError, outcome: Resumption, seq: int) -> None:
        """A stream broke after `seq` ids because of `cause`: what came of it."""
        timeline.hops.append(Hop(timeline.agent_id or "", seq, outcome, cause.code))
        self._metrics.resumes.labels(cause.code, outcome).inc()

    def rejoined(self, timeline: Timeline, seq: int) -> None:
        """A client came back for what follows `seq` of its stream."""
        timeline.hops.append(Hop(timeline.agent_id or "", seq, "attached", RETURNED))
        self._metrics.resumes.labels(RETURNED, "attached").inc()

    def moved(self, timeline: Timeline, agent_id: str, seq: int, how: Resumption) -> None:
        """A stream was handed over after `seq` ids, or was to be, and goes on now."""
        timeline.note_cut()
        pause_s = self._clock.monotonic_s() - self._read_s.get(timeline.request_id, self._clock.monotonic_s())
        timeline.hops.append(Hop(agent_id, seq, how, "", pause_s * 1e3))
        self._metrics.moves.labels(how).inc()
        self._metrics.move_pause_seconds.labels(timeline.model).observe(pause_s)

    def progressed(self, timeline: Timeline, seq: int) -> None:
        """A read of the stream brought it to `seq` ids."""
        now_s = self._clock.monotonic_s()
        read_s = self._read_s.get(timeline.request_id)
        if read_s is None:
            self._metrics.streams.inc()
        else:
            self._gap(timeline.model).observe(now_s - read_s)
        self._read_s[timeline.request_id] = now_s
        timeline.completion_tokens = seq

    def finished(self, timeline: Timeline) -> None:
        """The request has ended, however."""
        if self._read_s.pop(timeline.request_id, None) is not None:
            self._metrics.streams.dec()
        self._requests(timeline.endpoint, timeline.status, timeline.start).inc()
        num_tokens = timeline.completion_tokens
        if num_tokens:
            self._tokens(timeline.model).inc(num_tokens)
        if timeline.ttft_ms <= 0:
            return
        self._count_cached(timeline)
        self._ttft(timeline.model, timeline.start).observe(timeline.ttft_ms / 1e3)
        tier = timeline.tier or NO_TIER
        for phase, duration_ms in zip(PHASES, _durations_ms(timeline), strict=True):
            if duration_ms:
                self._phase(timeline.start, tier, phase).observe(duration_ms / 1e3)
        if timeline.is_stream and num_tokens > 1:
            per_token_ms = (timeline.e2e_ms - timeline.ttft_ms) / (num_tokens - 1)
            self._tpot(timeline.model).observe(per_token_ms / 1e3)

    def _count_cached(self, timeline: Timeline) -> None:
        """A ratio of decaying sums: long prompts count as the work that they are."""
        if not timeline.prompt_tokens:
            return
        cached, prompt = self._kv_sums.get(timeline.model, (0.0, 0.0))
        cached = cached * KV_MEMORY + timeline.cached_tokens
        prompt = prompt * KV_MEMORY + timeline.prompt_tokens
        self._kv_sums[timeline.model] = cached, prompt
        self._hit_ratio(timeline.model).set(cached / prompt)
