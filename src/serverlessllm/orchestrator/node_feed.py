# SPDX-License-Identifier: Apache-2.0
"""Keeps placement's arrays up to date: what agents say, what we have just ordered and they have not said yet.

One device set per agent in this version. Called for every event of every agent: nothing here loops over agents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.placement.demand import Demand
from serverlessllm.orchestrator.placement.losses import losses_of
from serverlessllm.orchestrator.placement.nodes import NodeFacts, NodeTable
from serverlessllm.orchestrator.placement.terms.load import DRAM, NVME
from serverlessllm.types import Tier
from serverlessllm.wire import is_compatible
from serverlessllm.wire.agent import LoadResult, Loss, ReplicaStatus
from serverlessllm.wire.events import AgentEvent, LoadEnded, RegionChanged, ReplicaChanged, Snapshot

CPU_DEVICE_SET: Final = "cpu"
_MEMORY: Final = 0.8
"""How much of the sums behind a device's bandwidth outlives each further load."""


@dataclass(slots=True)
class _Node:
    """One agent's row, its orders under way (model index → expected seconds), and its device's sums."""

    link: AgentLink
    ordered: dict[int, float] = field(default_factory=dict)
    device_bytes: float = 0.0
    device_s: float = 0.0

    def note_bind(self, result: LoadResult) -> None:
        """Large loads count for more: what is constant in a bind is no bandwidth."""
        if result.bind_ms > 0 and result.nbytes:
            self.device_bytes = self.device_bytes * _MEMORY + result.nbytes
            self.device_s = self.device_s * _MEMORY + result.bind_ms / 1e3


class NodeFeed:
    """`follow` and `lost` by the agents' observer; `order` and `settled` around each load of ours."""

    def __init__(self) -> None:
        self.table = NodeTable()
        self.demand = Demand()
        self._nodes: dict[int, _Node] = {}

    def row(self, link: AgentLink) -> int:
        """The agent's row; one that has not told its name yet goes by its address."""
        return self.table.row(link.agent_id, CPU_DEVICE_SET)

    def link(self, row: int) -> AgentLink | None:
        """The agent of a row, if it is alive."""
        node = self._nodes.get(row)
        return None if node is None else node.link

    def follow(self, link: AgentLink, event: AgentEvent) -> None:
        """`event` was applied to `link.state`."""
        row = self.row(link)
        node = self._nodes.get(row)
        if node is None or node.link is not link:
            node = self._nodes[row] = _Node(link)
        match event:
            case Snapshot():
                self._take_snapshot(row, link)
            case ReplicaChanged(replica=replica):
                self._take_replica(row, node, replica)
                return  # the most frequent by far, and no number changed
            case RegionChanged(region=region):
                self._take_region(row, region.revision, is_there=region.is_complete and region.nbytes > 0)
            case LoadEnded(result=result, revision=revision) if result is not None:
                node.note_bind(result)
                model = self.table.model(revision)
                self.table.set_tier(row, model, max(NVME, int(self.table.tiers[model, row])))
            case _:
                pass
        self._put(row, node)

    def lost(self, link: AgentLink) -> None:
        """The agent is dead."""
        row = self.row(link)
        self._nodes.pop(row, None)
        self.table.clear(row)

    def order(self, row: int, model: int, expected_s: float) -> None:
        """We are about to have a model loaded there: the next decision must see it."""
        node = self._nodes.get(row)
        if node is not None:
            node.ordered[model] = expected_s
            self.table.set_bound(row, model, is_busy=True)
            self._put(row, node)

    def settled(self, row: int, model: int, *, is_ready: bool) -> None:
        """That load is over. What the agent said meanwhile holds."""
        node = self._nodes.get(row)
        if node is None or node.ordered.pop(model, None) is None:
            return
        revision = self.table.revision(model)
        is_known = any(key[1] == revision for key in node.link.state.replicas)
        if not is_ready and not is_known:
            self.table.set_bound(row, model, is_busy=None)
        self._put(row, node)

    def refresh(self) -> None:
        """Before a decision: what others change without an event (drains, failures)."""
        for row, node in self._nodes.items():
            self.table.bools["is_drained"][row] = node.link.is_drained
            self.table.ints["num_failures"][row] = node.link.num_failures

    def losses(self, row: int, now_s: float) -> dict[str, Loss]:
        """What the going of each model on a node would cost, for the agent that must make room."""
        found = losses_of(self.table, self.demand, now_s, row)
        return {revision: Loss(*seconds) for revision, seconds in found.items()}

    def num_ordered(self, row: int) -> int:
        """Loads of ours that are under way there."""
        node = self._nodes.get(row)
        return 0 if node is None else len(node.ordered)

    def _take_snapshot(self, row: int, link: AgentLink) -> None:
        base = link.state.base
        self.table.forget_memory(row)
        for revision in base.on_disk if base is not None else ():
            self.table.set_tier(row, self.table.model(revision), NVME)
        for region in link.state.regions.values():
            self._take_region(row, region.revision, is_there=region.is_complete)
        for replica in link.state.replicas.values():
            self._take_replica(row, self._nodes[row], replica)

    def _take_region(self, row: int, revision: str, *, is_there: bool) -> None:
        model = self.table.model(revision)
        if is_there:
            self.table.set_tier(row, model, DRAM)
        elif self.table.tiers[model, row] == DRAM:
            self.table.set_tier(row, model, NVME)

    def _take_replica(self, row: int, node: _Node, status: ReplicaStatus) -> None:
        model = self.table.model(status.revision)
        if status.state == "gone":
            if model not in node.ordered:
                self.table.set_bound(row, model, is_busy=None)
            return
        is_busy = status.state != "ready" or status.num_running + status.num_queued > 0
        self.table.set_bound(row, model, is_busy=is_busy or model in node.ordered)

    def _put(self, row: int, node: _Node) -> None:
        link = node.link
        base, state = link.state.base, link.state
        if base is None:
            return
        loads_s = {self.table.model(load.revision): load.eta_s for load in state.loads.values()}
        loads_s = {**node.ordered, **loads_s} if node.ordered else loads_s
        self.table.put(
            row,
            NodeFacts(
                is_alive=link.is_alive,
                is_drained=link.is_drained,
                speaks=is_compatible(base.wire_version),
                engines=frozenset(base.engines),
                budget_bytes=base.arena_budget_bytes,
                used_bytes=state.used_bytes,
                num_seats=base.max_replicas,
                loads_s=sum(loads_s.values()),
                num_failures=link.num_failures,
                max_num_ranks=base.max_num_ranks,
                remote_bytes_per_s=_bandwidth(link, "remote"),
                nvme_bytes_per_s=_bandwidth(link, "nvme"),
                device_bytes_per_s=node.device_bytes / node.device_s if node.device_s else 0.0,
            ),
        )


def _bandwidth(link: AgentLink, tier: Tier) -> float:
    seen = link.state.bandwidths.get((tier, ""))
    return 0.0 if seen is None else seen.mean_bytes_per_s


def rates_of(feed: NodeFeed, revisions: list[str], now_s: float) -> list[float]:
    """Calls per second of each revision."""
    indexes = np.array([feed.table.model(revision) for revision in revisions], dtype=np.int64)
    return [float(rate) for rate in feed.demand.rates(indexes, now_s)]
