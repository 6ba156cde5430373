# SPDX-License-Identifier: Apache-2.0
"""The last placement decisions, with what came of them. Bounded; the oldest fall out.

Kept as the arrays that were decided on; the record that people and programs read is made when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from serverlessllm.orchestrator.placement.decide import Decision
from serverlessllm.wire.admin import DecisionKind, PlacementDecision

MAX_DECISIONS: Final = 1024


@dataclass(slots=True)
class KeptDecision:
    """One decision and its outcome. `agent_ids` and `device_sets` are by row, as they were."""

    kind: DecisionKind
    model: str
    revision: str
    attempt: int
    decided_s: float
    decision: Decision
    agent_ids: Sequence[str]
    device_sets: Sequence[str]
    request_id: str | None = None
    wake_ms: float | None = None
    ttft_ms: float | None = None
    outcome: str | None = None

    def record(self) -> PlacementDecision:
        """As it is shown and exported."""
        decision = self.decision
        return PlacementDecision(
            kind=self.kind,
            model=self.model,
            revision=self.revision,
            attempt=self.attempt,
            decided_s=self.decided_s,
            candidates=decision.candidates(self.agent_ids, self.device_sets),
            weights=dict(decision.weights),
            picked=None if decision.picked is None else self.agent_ids[decision.picked],
            probability=decision.probability,
            request_id=self.request_id,
            wake_ms=self.wake_ms,
            ttft_ms=self.ttft_ms,
            outcome=self.outcome,
        )


class DecisionRing:
    """Loads by (model, attempt): an attempt is one placement. Choices among ready replicas by request id."""

    def __init__(self, max_decisions: int = MAX_DECISIONS) -> None:
        self._max_decisions = max_decisions
        self._decisions: dict[tuple[str, int], KeptDecision] = {}
        self._routes: dict[str, KeptDecision] = {}

    def add(self, decision: KeptDecision) -> None:
        """Keep a decision at the moment it is made."""
        self._decisions[decision.model, decision.attempt] = decision
        while len(self._decisions) > self._max_decisions:
            del self._decisions[next(iter(self._decisions))]

    def settle(self, model: str, attempt: int, *, wake_ms: float, outcome: str) -> None:
        """What came of it: `ready`, `cancelled`, or an error's code. A decision that fell out is no error."""
        kept = self._decisions.get((model, attempt))
        if kept is not None:
            kept.wake_ms, kept.outcome = round(wake_ms, 2), outcome

    def served(self, model: str, attempt: int, request_id: str, *, ttft_ms: float, outcome: str) -> None:
        """A request was answered, or not: what its route came to, and the first of a replica what its load did."""
        route = self._routes.get(request_id)
        if route is not None:
            route.outcome = outcome
            route.ttft_ms = round(ttft_ms, 2) if ttft_ms else None
        kept = self._decisions.get((model, attempt))
        if kept is not None and kept.request_id is None and ttft_ms:
            kept.request_id, kept.ttft_ms = request_id, round(ttft_ms, 2)

    def get(self, model: str, attempt: int) -> PlacementDecision | None:
        """The decision that placed this attempt, if it is still kept."""
        kept = self._decisions.get((model, attempt))
        return None if kept is None else kept.record()

    def add_route(self, decision: KeptDecision) -> None:
        """Keep why a request went to one of several ready replicas; that of its last try."""
        self._routes[decision.request_id or ""] = decision
        while len(self._routes) > self._max_decisions:
            del self._routes[next(iter(self._routes))]

    def route(self, request_id: str) -> PlacementDecision | None:
        """Why the request went where it went; None if there was no choice, or it is not kept."""
        kept = self._routes.get(request_id)
        return None if kept is None else kept.record()

    def recent(self, limit: int) -> list[PlacementDecision]:
        """The newest of both kinds, the oldest of them first."""
        both = [*self._decisions.values(), *self._routes.values()]
        both.sort(key=lambda kept: kept.decided_s)
        return [kept.record() for kept in islice(both, max(0, len(both) - limit), None)]
