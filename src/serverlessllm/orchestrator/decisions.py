# SPDX-License-Identifier: Apache-2.0
"""The last placement decisions, with what came of them. Bounded; the oldest fall out."""

from __future__ import annotations

from typing import Final

import msgspec

from serverlessllm.wire.admin import PlacementDecision

MAX_DECISIONS: Final = 1024


class DecisionRing:
    """Wake-ups by (model, attempt): an attempt is one placement. Choices among ready replicas by request id."""

    def __init__(self, max_decisions: int = MAX_DECISIONS) -> None:
        self._max_decisions = max_decisions
        self._decisions: dict[tuple[str, int], PlacementDecision] = {}
        self._routes: dict[str, PlacementDecision] = {}

    def add(self, decision: PlacementDecision) -> None:
        """Keep a decision at the moment it is made."""
        self._decisions[decision.model, decision.attempt] = decision
        while len(self._decisions) > self._max_decisions:
            del self._decisions[next(iter(self._decisions))]

    def settle(self, model: str, attempt: int, *, wake_ms: float, outcome: str) -> None:
        """What came of it: `ready`, `cancelled`, or an error's code. A decision that fell out is no error."""
        decision = self._decisions.get((model, attempt))
        if decision is not None:
            self._decisions[model, attempt] = msgspec.structs.replace(
                decision, wake_ms=round(wake_ms, 2), outcome=outcome
            )

    def get(self, model: str, attempt: int) -> PlacementDecision | None:
        """The decision that placed this attempt, if it is still kept."""
        return self._decisions.get((model, attempt))

    def add_route(self, request_id: str, decision: PlacementDecision) -> None:
        """Keep why a request went to one of several ready replicas; that of its last try."""
        self._routes[request_id] = decision
        while len(self._routes) > self._max_decisions:
            del self._routes[next(iter(self._routes))]

    def route(self, request_id: str) -> PlacementDecision | None:
        """Why the request went where it went; None if there was no choice, or it is not kept."""
        return self._routes.get(request_id)
