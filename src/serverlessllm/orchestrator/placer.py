# SPDX-License-Identifier: Apache-2.0
"""One load: decided over all nodes, claimed in the store, ordered from the agent, its outcome recorded.

Knows not why it is wanted, nor what to do when it fails: that is the business of who asks (`waker.py` for the first
replica, `scaling/` for more).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import Final

import numpy as np

from serverlessllm.clock import Clock
from serverlessllm.errors import SllmError, UnreachableError
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.decisions import DecisionRing, KeptDecision
from serverlessllm.orchestrator.node_feed import NodeFeed
from serverlessllm.orchestrator.placement.cold import Need, place
from serverlessllm.orchestrator.placement.decide import Decision
from serverlessllm.orchestrator.placement.terms.load import DRAM
from serverlessllm.orchestrator.placements import FIRST_REPLICA, Placements
from serverlessllm.orchestrator.prefill_costs import PrefillCosts
from serverlessllm.orchestrator.rank_rules import num_ranks
from serverlessllm.wire.admin import DecisionKind
from serverlessllm.wire.agent import LoadRequest, LoadResult, Loss

UNLOADED: Final = ""


class Placer:
    """`decide`, then `load` or `warm` where it said. Keeps no state of its own between calls."""

    def __init__(
        self,
        feed: NodeFeed,
        costs: PrefillCosts,
        weights: Callable[[], Mapping[str, float]],
        placements: Placements,
        decisions: DecisionRing,
        clock: Clock,
    ) -> None:
        self._feed = feed
        self._costs = costs
        self._weights = weights
        self._placements = placements
        self._decisions = decisions
        self._clock = clock
        self._rng = Random()

    def decide(
        self, record: ModelRecord, excluded: Collection[str] = (), num_prompt_tokens: int = 0
    ) -> Decision:
        """Where the model should be loaded. `excluded` are agent ids."""
        self._feed.refresh()
        table, revision = self._feed.table, record.revision or UNLOADED
        costs = [self._costs.of(agent_id, revision) for agent_id in table.agent_ids]
        return place(
            table,
            self._feed.demand,
            Need(
                revision=revision,
                engine=record.engine,
                nbytes=record.nbytes,
                has_origins=bool(record.origins),
                prompt_tokens=num_prompt_tokens,
                num_ranks=num_ranks(record.options),
                service_s=self._costs.service_s(revision),
            ),
            excluded=[row for row, agent_id in enumerate(table.agent_ids) if agent_id in excluded],
            token_s=np.array([cost.token_s for cost in costs]),
            weights=self._weights(),
            now_s=self._clock.monotonic_s(),
            rng=self._rng,
        )

    def link(self, decision: Decision) -> AgentLink | None:
        """The agent that was picked, if it is still alive."""
        return None if decision.picked is None else self._feed.link(decision.picked)

    async def load(
        self,
        record: ModelRecord,
        link: AgentLink,
        decision: Decision,
        *,
        replica: str = FIRST_REPLICA,
        started_s: float,
        on_claim: Callable[[int], None] = lambda attempt: None,
    ) -> tuple[LoadResult, float]:
        """Claim and load; (the result, how long deciding and claiming took in ms). Raises as the agent does.

        `on_claim` is told the attempt, as soon as it is ours.
        """
        revision = record.revision or UNLOADED
        attempt = await self._placements.claim(record.name, revision, link.agent_id, replica)
        on_claim(attempt)
        place_ms = (self._clock.monotonic_s() - started_s) * 1e3
        self._keep("wake" if replica == FIRST_REPLICA else "replica", record, attempt, decision)
        row, model = decision.picked or 0, self._feed.table.model(revision)
        if self._feed.link(row) is link:
            self._feed.order(row, model, self._reading_s(decision, row, model))
        outcome = "cancelled"
        try:
            result = await self._call(link, self._request(record, attempt, row))
            outcome = "ready"
        except SllmError as error:
            outcome = error.code
            raise
        finally:
            self._feed.settled(row, model, is_ready=outcome == "ready")
            wake_ms = (self._clock.monotonic_s() - started_s) * 1e3
            self._decisions.settle(record.name, attempt, wake_ms=wake_ms, outcome=outcome)
            self._placements.settle(record.name, attempt, is_ready=outcome == "ready")
        link.num_failures = 0
        return result, place_ms

    async def warm(self, record: ModelRecord, link: AgentLink, decision: Decision) -> LoadResult:
        """Bring the model's bytes into the agent's DRAM, no replica. Raises as the agent does."""
        attempt = await self._placements.next_attempt(record.name)
        self._keep("warm", record, attempt, decision)
        started_s, outcome = self._clock.monotonic_s(), "cancelled"
        try:
            request = self._request(record, attempt, decision.picked or 0, warm_only=True)
            result = await self._call(link, request)
            outcome = "ready"
            return result
        except SllmError as error:
            outcome = error.code
            raise
        finally:
            wake_ms = (self._clock.monotonic_s() - started_s) * 1e3
            self._decisions.settle(record.name, attempt, wake_ms=wake_ms, outcome=outcome)

    def _reading_s(self, decision: Decision, row: int, model: int) -> float:
        """How long others must expect this load to read the node's media; nothing for bytes in DRAM."""
        is_here = self._feed.table.tiers[model, row] >= DRAM
        return 0.0 if is_here else float(decision.terms_s["load"][row])

    def _request(
        self, record: ModelRecord, attempt: int, row: int, *, warm_only: bool = False
    ) -> LoadRequest:
        return LoadRequest(
            model=record.name,
            revision=record.revision or UNLOADED,
            artifact=record.artifact or "",
            engine=record.engine,
            attempt=attempt,
            options=record.options,
            origins=record.origins,
            losses=self._losses(row),
            warm_only=warm_only,
        )

    def _losses(self, row: int) -> dict[str, Loss]:
        """What the agent needs to know to evict as we would; nothing if that counts for nothing."""
        if not self._weights().get("evict", 1.0):
            return {}
        return self._feed.losses(row, self._clock.monotonic_s())

    async def _call(self, link: AgentLink, request: LoadRequest) -> LoadResult:
        """`POST /load`, given up when the agent is lost."""
        load = asyncio.ensure_future(link.client.load(request))
        lost = asyncio.ensure_future(link.lost.wait())
        try:
            await asyncio.wait({load, lost}, return_when=asyncio.FIRST_COMPLETED)
            if load.done():
                return load.result()
            raise UnreachableError(f"agent {link.agent_id} was lost during the load", source="agent")
        finally:
            lost.cancel()
            if not load.done():
                load.cancel()
                await asyncio.wait({load})

    def _keep(self, kind: DecisionKind, record: ModelRecord, attempt: int, decision: Decision) -> None:
        self._decisions.add(
            KeptDecision(
                kind=kind,
                model=record.name,
                revision=record.revision or UNLOADED,
                attempt=attempt,
                decided_s=self._clock.wall_s(),
                decision=decision,
                agent_ids=tuple(self._feed.table.agent_ids),
                device_sets=tuple(self._feed.table.device_sets),
            )
        )
