# SPDX-License-Identifier: Apache-2.0
"""The cluster of `hardware.py` as events in memory, placed by the product's own functions over its own arrays.

No process, no network, no clock: a trace of two minutes takes seconds. What agents do about seats and memory is
written again here in short (one load at a time gets room; an idle replica goes, the least missed first); what an
event's delay or a busy processor does is not in it. Labelled `simulated` wherever it is shown.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final, Protocol

import numpy as np

from benchmarks.burst.hardware import Hardware
from benchmarks.burst.trace import Call
from serverlessllm.orchestrator.placement.cold import Need, place
from serverlessllm.orchestrator.placement.demand import Demand
from serverlessllm.orchestrator.placement.losses import losses_of
from serverlessllm.orchestrator.placement.nodes import NodeFacts, NodeTable
from serverlessllm.orchestrator.placement.terms.load import DRAM, NVME

GRACE_S: Final = 2.0
"""As agents have it: a replica that nobody asked yet is not idle for so long."""


@dataclass(slots=True)
class Request:
    """One call of the trace and its first token."""

    at_s: float
    model: int
    is_cold: bool = False
    first_s: float = 0.0

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.at_s


@dataclass(slots=True)
class Replica:
    """A model in a seat; `ready_s` None while it loads."""

    model: int
    ready_s: float | None = None
    num_running: int = 0
    had_request: bool = False
    used_s: float = 0.0
    waiting: deque[Request] = field(default_factory=deque)


@dataclass(slots=True)
class Node:
    """Seats, DRAM (model → last use), loads in line for room, and reads under way (model → bytes left)."""

    row: int
    bound: dict[int, Replica] = field(default_factory=dict)
    dram: dict[int, float] = field(default_factory=dict)
    line: deque[int] = field(default_factory=deque)
    reads: dict[int, float] = field(default_factory=dict)
    reads_at_s: float = 0.0
    reads_version: int = 0
    losses: dict[int, tuple[float, float]] = field(default_factory=dict)


class Policy(Protocol):
    """Where a model is loaded, and what the going of each model on that node would cost."""

    def choose(self, cluster: Cluster, model: int) -> int:
        """The node."""

    def losses(self, cluster: Cluster, node: Node) -> dict[int, tuple[float, float]]:
        """Model → (unbinding, leaving DRAM), in seconds; what is not named costs nothing."""


class Scored:
    """The product's: `place` with these weights."""

    def __init__(self, weights: Mapping[str, float], seed: int) -> None:
        self.weights = dict(weights)
        self.rng = Random(seed)

    def choose(self, cluster: Cluster, model: int) -> int:
        table = cluster.table
        need = Need(
            str(model), "simulated", int(cluster.hardware.model_bytes), service_s=cluster.hardware.service_s
        )
        decision = place(
            table,
            cluster.demand,
            need,
            excluded=(),
            token_s=np.zeros(table.num_rows),
            weights=self.weights,
            now_s=cluster.now_s,
            rng=self.rng,
        )
        return decision.picked or 0

    def losses(self, cluster: Cluster, node: Node) -> dict[int, tuple[float, float]]:
        if self.weights.get("evict", 1.0) == 0:
            return {}
        found = losses_of(cluster.table, cluster.demand, cluster.now_s, node.row)
        return {int(revision): costs for revision, costs in found.items()}


class LruIdle:
    """The baseline: the node with the most free seats, then the longest idle replica; blind to where bytes are."""

    def choose(self, cluster: Cluster, model: int) -> int:
        def room(node: Node) -> tuple[int, float]:
            free = cluster.hardware.num_seats - len(node.bound) - len(node.line)
            idle = [r.used_s for r in node.bound.values() if cluster.is_idle(r)]
            return free, -min(idle, default=float("inf"))

        return max(cluster.nodes, key=room).row

    def losses(self, cluster: Cluster, node: Node) -> dict[int, tuple[float, float]]:
        return {}


class Clairvoyant:
    """The oracle: knows every later call. For a pool of seats in one node that has all bytes in DRAM."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._times: dict[int, list[float]] = {}
        for call in calls:
            self._times.setdefault(call.model, []).append(call.at_s)

    def choose(self, cluster: Cluster, model: int) -> int:
        return 0

    def losses(self, cluster: Cluster, node: Node) -> dict[int, tuple[float, float]]:
        """The later the next call, the less it costs."""
        return {model: (1 / (1e-9 + self._next_s(model, cluster.now_s)), 0.0) for model in node.bound}

    def _next_s(self, model: int, now_s: float) -> float:
        times = self._times.get(model, [])
        index = int(np.searchsorted(times, now_s, side="right"))
        return times[index] - now_s if index < len(times) else 1e9


class Cluster:
    """Replays one trace under one policy."""

    def __init__(self, hardware: Hardware, policy: Policy) -> None:
        self.hardware = hardware
        self.policy = policy
        self.now_s = 0.0
        self.table = NodeTable()
        self.demand = Demand()
        self.nodes = [Node(self.table.row(f"node-{index}", "gpu")) for index in range(hardware.num_nodes)]
        self.num_loads = {"dram": 0, "nvme": 0}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._wakes: dict[int, list[Request]] = {}
        self._homes: dict[int, int] = {}

    def run(self, calls: Sequence[Call], num_models: int) -> list[Request]:
        """All requests with their first tokens. DRAM begins with every model somewhere, evenly; no seat is taken."""
        for model in range(num_models):
            self.table.nbytes[self.table.model(str(model))] = self.hardware.model_bytes
            for node in self.nodes:
                self.table.set_tier(node.row, model, NVME)
            home = self.nodes[model % len(self.nodes)]
            if len(home.dram) < self.hardware.dram_models:
                self._remember(home, model)
        for node in self.nodes:
            self._tell(node)
        requests = [Request(call.at_s, call.model) for call in calls]
        for request in requests:
            self._at(request.at_s, partial(self._arrive, request))
        while self._events:
            self.now_s, _, act = heapq.heappop(self._events)
            act()
        return requests

    def is_idle(self, replica: Replica) -> bool:
        """As an agent sees it."""
        if replica.ready_s is None or replica.num_running or replica.waiting:
            return False
        return replica.had_request or self.now_s - replica.ready_s >= GRACE_S

    # -- requests ----------------------------------------------------------------------------------------------

    def _arrive(self, request: Request) -> None:
        self.demand.note(request.model, self.now_s)
        home = self._homes.get(request.model)
        if home is not None:
            self._enter(self.nodes[home], request)
            return
        request.is_cold = True
        waiting = self._wakes.get(request.model)
        if waiting is not None:
            waiting.append(request)
            return
        self._wakes[request.model] = [request]
        node = self.nodes[self.policy.choose(self, request.model)]
        node.losses = self.policy.losses(self, node)
        node.line.append(request.model)
        self.table.set_bound(node.row, request.model, is_busy=True)
        self._tell(node)
        self._admit(node)

    def _enter(self, node: Node, request: Request) -> None:
        replica = node.bound[request.model]
        replica.had_request = True
        if replica.num_running >= self.hardware.max_batch:
            replica.waiting.append(request)
            return
        replica.num_running += 1
        request.first_s = self.now_s + self.hardware.prefill_s
        self.table.set_bound(node.row, request.model, is_busy=True)
        self._at(self.now_s + self.hardware.service_s, lambda: self._leave(node, replica))

    def _leave(self, node: Node, replica: Replica) -> None:
        replica.num_running -= 1
        replica.used_s = self.now_s
        node.dram[replica.model] = self.now_s
        if replica.waiting:
            self._enter(node, replica.waiting.popleft())
        elif not replica.num_running:
            self.table.set_bound(node.row, replica.model, is_busy=False)
            self._admit(node)

    # -- loads -------------------------------------------------------------------------------------------------

    def _admit(self, node: Node) -> None:
        """The first in line gets a seat and memory, as soon as there are; then the next."""
        while node.line and self._make_room(node, node.line[0]):
            self._begin(node, node.line.popleft())

    def _make_room(self, node: Node, model: int) -> bool:
        if len(node.bound) >= self.hardware.num_seats and not self._unbind_one(node):
            return False
        while model not in node.dram and len(node.dram) >= self.hardware.dram_models:
            resting = [other for other in node.dram if other not in node.bound]
            if resting:
                victim = min(resting, key=lambda other: (node.losses.get(other, (0, 0))[1], node.dram[other]))
                self._forget(node, victim)
            elif not self._unbind_one(node):
                return False
        return True

    def _unbind_one(self, node: Node) -> bool:
        idle = [replica for replica in node.bound.values() if self.is_idle(replica)]
        if not idle:
            return False
        victim = min(idle, key=lambda replica: (node.losses.get(replica.model, (0, 0))[0], replica.used_s))
        del node.bound[victim.model], self._homes[victim.model]
        self.table.set_bound(node.row, victim.model, is_busy=None)
        return True

    def _begin(self, node: Node, model: int) -> None:
        node.bound[model] = Replica(model, used_s=self.now_s)
        if model in node.dram:
            self.num_loads["dram"] += 1
            self._at(self.now_s + self.hardware.bind_s, lambda: self._ready(node, model))
            return
        self.num_loads["nvme"] += 1
        node.dram[model] = self.now_s
        self._progress(node)
        node.reads[model] = self.hardware.model_bytes
        self._await_reads(node)

    def _progress(self, node: Node) -> None:
        """The reads under way share the disk evenly."""
        if node.reads:
            share = (self.now_s - node.reads_at_s) * self.hardware.nvme_bytes_per_s / len(node.reads)
            for model in node.reads:
                node.reads[model] -= share
        node.reads_at_s = self.now_s
        node.reads_version += 1

    def _await_reads(self, node: Node) -> None:
        self._tell(node)
        if not node.reads:
            return
        model, left = min(node.reads.items(), key=lambda item: item[1])
        seconds = max(0.0, left) * len(node.reads) / self.hardware.nvme_bytes_per_s
        version = node.reads_version
        self._at(self.now_s + seconds, lambda: self._read(node, model, version))

    def _read(self, node: Node, model: int, version: int) -> None:
        if version != node.reads_version:
            return
        self._progress(node)
        del node.reads[model]
        self._remember(node, model)
        self._await_reads(node)
        self._ready(node, model)  # bound while the bytes came: the device is the faster one

    def _ready(self, node: Node, model: int) -> None:
        node.bound[model].ready_s = self.now_s
        self._homes[model] = node.row
        self.table.set_bound(node.row, model, is_busy=False)
        for request in self._wakes.pop(model):
            self._enter(node, request)
        self._tell(node)
        self._admit(node)

    # -- what placement knows ----------------------------------------------------------------------------------

    def _remember(self, node: Node, model: int) -> None:
        node.dram[model] = self.now_s
        self.table.set_tier(node.row, model, DRAM)

    def _forget(self, node: Node, model: int) -> None:
        del node.dram[model]
        self.table.set_tier(node.row, model, NVME)

    def _tell(self, node: Node) -> None:
        hardware = self.hardware
        left = sum(node.reads.values()) + hardware.model_bytes * sum(m not in node.dram for m in node.line)
        facts = NodeFacts(
            engines=frozenset({"simulated"}),
            budget_bytes=int(hardware.dram_models * hardware.model_bytes),
            used_bytes=int(len(node.dram) * hardware.model_bytes),
            num_seats=hardware.num_seats,
            loads_s=left / hardware.nvme_bytes_per_s,
            nvme_bytes_per_s=hardware.nvme_bytes_per_s,
            device_bytes_per_s=hardware.device_bytes_per_s,
        )
        self.table.put(node.row, facts)

    def _at(self, when_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when_s, next(self._order), act))
