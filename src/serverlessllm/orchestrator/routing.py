# SPDX-License-Identifier: Apache-2.0
"""Which of a model's ready replicas takes a request: the one that should give its first token soonest.

Where there is one, there is nothing to decide and nothing is computed. Else the placement's own filter, score and
pick are asked, and the decision is kept for `sllm request explain`.

    queue    = our requests in flight there · observed seconds of a prompt there
    kv       = tokens of the prompt that are not cached there · observed seconds per token there
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Final

from serverlessllm.clock import Clock
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.breakers import Breakers
from serverlessllm.orchestrator.decisions import DecisionRing
from serverlessllm.orchestrator.placement.decide import Decision, decide
from serverlessllm.orchestrator.placement.facts import CPU_DEVICE_SET, AgentFacts, Need
from serverlessllm.orchestrator.placement.score import DEFAULT_WEIGHTS
from serverlessllm.orchestrator.prefill_costs import PrefillCosts
from serverlessllm.orchestrator.prompt import Prompt
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.telemetry.timeline import Timeline
from serverlessllm.wire.admin import PlacementDecision

_NOTHING: Final[frozenset[int]] = frozenset()


class Routing:
    """Called on the hot path."""

    def __init__(
        self,
        table: ReplicaTable,
        costs: PrefillCosts,
        decisions: DecisionRing,
        clock: Clock,
        breakers: Breakers,
    ) -> None:
        self._breakers = breakers
        self._table = table
        self._costs = costs
        self._decisions = decisions
        self._clock = clock
        self._rng = Random()

    def pick(
        self, record: ModelRecord, prompt: Prompt, request_id: str, failed: Collection[str] = ()
    ) -> Replica | None:
        """A ready replica, None when there is none. Agents in `failed` are asked again only if no other is left."""
        ready = self._breakers.usable(self._table.ready(record.name, record.revision))
        if len(ready) < 2:
            return ready[0] if ready else None
        facts = [self._facts(replica, record, prompt) for replica in ready]
        need = Need(record.name, record.revision or "", record.engine, nbytes=0)
        decision = decide(need, facts, frozenset(failed), DEFAULT_WEIGHTS, self._rng)
        if decision.picked is None:
            decision = decide(need, facts, frozenset(), DEFAULT_WEIGHTS, self._rng)
        if decision.picked is None:
            return None  # all were lost just now
        picked = ready[decision.picked]
        self._decisions.add_route(request_id, self._record(picked, decision))
        return picked

    def learn(self, replica: Replica, timeline: Timeline) -> None:
        """The request that went to `replica` is over; what its prompt cost is in its timeline."""
        self._costs.note(
            replica.link.agent_id,
            replica.revision,
            num_computed_tokens=timeline.prompt_tokens - timeline.cached_tokens,
            prefill_s=timeline.prefill_ms / 1e3,
        )

    def _facts(self, replica: Replica, record: ModelRecord, prompt: Prompt) -> AgentFacts:
        link = replica.link
        cost = self._costs.of(link.agent_id, replica.revision)
        cached = link.state.kv.get((replica.model, replica.revision), _NOTHING)
        return AgentFacts(
            agent_id=link.agent_id,
            device_set=CPU_DEVICE_SET,
            is_alive=link.is_alive,
            is_drained=False,
            engines=frozenset({record.engine}),
            budget_bytes=0,
            bytes_missing=0,
            bytes_per_s=0.0,
            queue_s=replica.num_inflight * cost.request_s,
            num_failures=replica.num_failures,
            uncached_prompt_tokens=prompt.uncached_tokens(cached),
            prefill_token_s=cost.token_s,
        )

    def _record(self, picked: Replica, decision: Decision) -> PlacementDecision:
        return PlacementDecision(
            model=picked.model,
            revision=picked.revision,
            attempt=picked.attempt,
            decided_s=self._clock.wall_s(),
            candidates=list(decision.candidates),
            weights=dict(DEFAULT_WEIGHTS),
            picked=picked.link.agent_id,
            probability=decision.probability,
        )
