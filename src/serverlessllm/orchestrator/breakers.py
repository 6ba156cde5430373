# SPDX-License-Identifier: Apache-2.0
"""The breakers of all agents: which replicas may be asked, and which agents a model should not wake on.

An open breaker sends requests elsewhere; it never refuses one that has nowhere else to go. 4xx, unbound replicas,
agents that stop politely and deadlines of the request's own say nothing against an agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serverlessllm.errors import (
    HoldDeadlineError,
    ReplicaGoneError,
    ShuttingDownError,
    SllmError,
    StaleAttemptError,
)
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.replicas import Replica
from serverlessllm.telemetry.metrics import OrchestratorMetrics

NO_FAULT: Final = (HoldDeadlineError, ReplicaGoneError, ShuttingDownError, StaleAttemptError)
STATE_VALUES: Final = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


class Breakers:
    """Reads the breakers that the links of `agents` carry."""

    def __init__(self, agents: Agents, metrics: OrchestratorMetrics) -> None:
        self._agents = agents
        self._metrics = metrics

    def usable(self, replicas: list[Replica]) -> list[Replica]:
        """Those that may be asked now; all of them if none may and no other agent could be woken instead."""
        if all(replica.link.breaker.is_closed for replica in replicas):
            return replicas
        admitted = [replica for replica in replicas if replica.link.breaker.admits]
        if admitted:
            return admitted
        here = {replica.link.address for replica in replicas}
        has_others = any(
            link.breaker.admits and not link.is_drained and link.address not in here
            for link in self._agents.alive()
        )
        return [] if has_others else replicas

    def least_busy(self, replicas: list[Replica]) -> Replica | None:
        """Of the usable ones, that with the fewest of our requests."""
        return min(self.usable(replicas), key=lambda replica: replica.num_inflight, default=None)

    @staticmethod
    def shunned(links: Sequence[AgentLink]) -> frozenset[str]:
        """The ids of agents on which nothing should wake now."""
        return frozenset(link.agent_id for link in links if not link.breaker.admits)

    @staticmethod
    def failed(link: AgentLink, error: SllmError) -> None:
        """A request to that agent failed with `error`, before or after its first token."""
        if isinstance(error, NO_FAULT):
            return
        link.breaker.failed()

    def show(self) -> None:
        """Bring the metrics up to date: they are read now."""
        self._metrics.breaker_state.clear()
        self._metrics.breaker_openings.clear()
        for link in self._agents.links:
            self._metrics.breaker_state.labels(link.agent_id).set(STATE_VALUES[link.breaker.state])
            self._metrics.breaker_openings.labels(link.agent_id).inc(link.breaker.num_openings)
