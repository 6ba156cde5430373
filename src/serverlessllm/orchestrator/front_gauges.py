# SPDX-License-Identifier: Apache-2.0
"""Figures of a cluster that are looked up when somebody scrapes, rather than told when they change.

An agent that fell silent while it was a member is shown until it is back, for at most LOST_SHOWN_S: an alert must not
end because its lease does. One that left in good order is not shown.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, get_args

from serverlessllm.clock import Clock
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.models import Models
from serverlessllm.telemetry.metrics import OrchestratorMetrics
from serverlessllm.wire.admin import ModelState

LOST_SHOWN_S: Final = 86400.0


class FrontGauges:
    """Heartbeats and models."""

    def __init__(self, metrics: OrchestratorMetrics, agents: Agents, models: Models, clock: Clock) -> None:
        self._metrics = metrics
        self._agents = agents
        self._models = models
        self._clock = clock
        self._lost_s: dict[str, float] = {}
        self._shown: set[str] = set()

    def note_lost(self, agent_id: str, silent_s: float) -> None:
        """A member fell silent so long ago."""
        self._lost_s[agent_id] = self._clock.monotonic_s() - silent_s

    def render(self) -> bytes:
        """Prometheus' text format."""
        self._show_ages(self._ages_s())
        states = Counter(record.state for record in self._models.all())
        for state in get_args(ModelState):
            self._metrics.models.labels(state).set(states[state])
        num_alive = len(self._agents.alive())
        self._metrics.agents.labels("true").set(num_alive)
        self._metrics.agents.labels("false").set(len(self._agents.links) - num_alive)
        return self._metrics.render()

    def _ages_s(self) -> dict[str, float]:
        """Agent → seconds since it was heard of."""
        now_s = self._clock.monotonic_s()
        alive = {link.agent_id for link in self._agents.alive()}
        self._lost_s = {
            agent: since_s
            for agent, since_s in self._lost_s.items()
            if agent not in alive and now_s - since_s < LOST_SHOWN_S
        }
        ages_s = {agent: now_s - since_s for agent, since_s in self._lost_s.items()}
        return {link.agent_id: link.silent_s for link in self._agents.links} | ages_s

    def _show_ages(self, ages_s: dict[str, float]) -> None:
        for gone in self._shown - ages_s.keys():
            self._metrics.heartbeat_age.remove(gone)
        for agent, age_s in ages_s.items():
            self._metrics.heartbeat_age.labels(agent).set(age_s)
        self._shown = set(ages_s)
