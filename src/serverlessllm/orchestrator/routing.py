# SPDX-License-Identifier: Apache-2.0
"""Which of a model's ready replicas takes a request: the one that should give its first token soonest.

Where there is one, there is nothing to decide and nothing is computed. Else the placement's own score and pick are
asked (`placement/hot.py`), and the decision is kept for `sllm request explain`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random
from typing import Final

import numpy as np

from serverlessllm.clock import Clock
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.breakers import Breakers
from serverlessllm.orchestrator.decisions import DecisionRing, KeptDecision
from serverlessllm.orchestrator.node_feed import CPU_DEVICE_SET, NodeFeed
from serverlessllm.orchestrator.placement.decide import Decision
from serverlessllm.orchestrator.placement.hot import route
from serverlessllm.orchestrator.prefill_costs import PrefillCosts
from serverlessllm.orchestrator.prompt import Prompt
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.telemetry.timeline import Timeline

MAX_LOOKED_AT: Final = 48
"""Of more replicas than this a random choice is as good, and a decision must not cost more the more there are."""
MAX_HOLDERS: Final = 16
_NOTHING: Final[frozenset[int]] = frozenset()


class Routing:
    """Called on the hot path."""

    def __init__(
        self,
        table: ReplicaTable,
        costs: PrefillCosts,
        decisions: DecisionRing,
        feed: NodeFeed,
        weights: Callable[[], Mapping[str, float]],
        clock: Clock,
        breakers: Breakers,
    ) -> None:
        self._breakers = breakers
        self._table = table
        self._costs = costs
        self._decisions = decisions
        self._feed = feed
        self._weights = weights
        self._clock = clock
        self._rng = Random()

    def note_call(self, record: ModelRecord) -> None:
        """A request for the model came: what is called often is not evicted lightly."""
        if record.revision is not None:
            self._feed.demand.note(self._feed.table.model(record.revision), self._clock.monotonic_s())

    def pick(
        self, record: ModelRecord, prompt: Prompt, request_id: str, failed: Collection[str] = ()
    ) -> Replica | None:
        """A ready replica, None when there is none. Agents in `failed` are asked again only if no other is left."""
        ready = self._breakers.usable(self._table.ready(record.name, record.revision))
        if len(ready) < 2:
            return ready[0] if ready else None
        fresh = [replica for replica in ready if replica.link.agent_id not in failed] if failed else ready
        looked_at = _alive(self._few(fresh, prompt)) or _alive(ready)
        if not looked_at:
            return None  # all were lost just now
        decision = self._decide(looked_at, prompt)
        if decision.picked is None:
            return None
        picked = looked_at[decision.picked]
        self._decisions.add_route(self._kept(request_id, looked_at, picked, decision))
        return picked

    def learn(self, replica: Replica, timeline: Timeline) -> None:
        """The request that went to `replica` is over; what it cost is in its timeline."""
        service_ms = timeline.e2e_ms - timeline.ttft_ms + timeline.prefill_ms
        self._costs.note(
            replica.link.agent_id,
            replica.revision,
            num_computed_tokens=timeline.prompt_tokens - timeline.cached_tokens,
            prefill_s=timeline.prefill_ms / 1e3,
            service_s=max(0.0, service_ms / 1e3) if timeline.state == "done" else 0.0,
        )
        self._decisions.served(
            replica.model,
            replica.attempt,
            timeline.request_id,
            ttft_ms=timeline.ttft_ms,
            outcome=timeline.state,
        )

    def _few(self, ready: list[Replica], prompt: Prompt) -> list[Replica]:
        """All of them; of very many a random choice, and those that have the prompt's beginning."""
        if len(ready) <= MAX_LOOKED_AT:
            return ready
        chosen = self._rng.sample(ready, MAX_LOOKED_AT)
        first = prompt.first_chunk
        if first is None:
            return chosen
        key = (ready[0].model, ready[0].revision)
        holders = [
            replica
            for replica in ready
            if (names := replica.link.state.kv.get(key)) is not None and first in names
        ]
        return list(dict.fromkeys([*chosen, *holders[:MAX_HOLDERS]]))

    def _decide(self, ready: Sequence[Replica], prompt: Prompt) -> Decision:
        costs = [self._costs.of(replica.link.agent_id, replica.revision) for replica in ready]
        uncached = [
            prompt.uncached_tokens(replica.link.state.kv.get((replica.model, replica.revision), _NOTHING))
            for replica in ready
        ]
        return route(
            np.array([float(replica.num_requests) for replica in ready]),
            np.array([float(replica.num_seats) for replica in ready]),
            np.array([cost.service_s for cost in costs]),
            np.array([cost.request_s for cost in costs]),
            np.array(uncached, dtype=np.float64),
            np.array([cost.token_s for cost in costs]),
            np.array([replica.num_failures for replica in ready]),
            weights=self._weights(),
            rng=self._rng,
        )

    def _kept(
        self, request_id: str, ready: Sequence[Replica], picked: Replica, decision: Decision
    ) -> KeptDecision:
        return KeptDecision(
            kind="route",
            model=picked.model,
            revision=picked.revision,
            attempt=picked.attempt,
            decided_s=self._clock.wall_s(),
            decision=decision,
            agent_ids=tuple(replica.link.agent_id for replica in ready),
            device_sets=(CPU_DEVICE_SET,) * len(ready),
            request_id=request_id,
        )


def _alive(replicas: Sequence[Replica]) -> list[Replica]:
    return [replica for replica in replicas if replica.link.is_alive]
