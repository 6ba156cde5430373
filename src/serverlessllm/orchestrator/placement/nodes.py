# SPDX-License-Identifier: Apache-2.0
"""What placement knows of all nodes, as arrays: a row per (agent, device set), an index per revision.

Written by events (`node_feed.py`), read by every decision without a loop over nodes. Pure; reads no clock.
Memory: one byte per (row, revision), 5 MiB for 512 nodes and 10,000 revisions; the rest is small beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Tiers
from serverlessllm.orchestrator.placement.places import Places
from serverlessllm.orchestrator.placement.terms.load import DRAM, NVME, REMOTE


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node's numbers. `num_seats` 0: unknown, never full. Bandwidths of 0 were never seen; `loads_s`: expected
    seconds of the loads that read its media; `num_failures` in a row;
    `max_num_ranks` devices may compute one model."""

    is_alive: bool = True
    is_drained: bool = False
    speaks: bool = True
    engines: frozenset[str] = frozenset()
    budget_bytes: int = 0
    used_bytes: int = 0
    num_seats: int = 0
    loads_s: float = 0.0
    num_failures: int = 0
    max_num_ranks: int = 1
    remote_bytes_per_s: float = 0.0
    nvme_bytes_per_s: float = 0.0
    device_bytes_per_s: float = 0.0


_FLOATS = (
    "budget_bytes",
    "used_bytes",
    "loads_s",
    "remote_bytes_per_s",
    "nvme_bytes_per_s",
    "device_bytes_per_s",
)
_INTS = ("num_seats", "num_failures", "max_num_ranks")
_BOOLS = ("is_alive", "is_drained", "speaks")


class NodeTable:
    """`row`, `put`, then `set_tier` and `set_bound` as things move."""

    def __init__(self, num_rows: int = 8, num_models: int = 64) -> None:
        self.agent_ids: list[str] = []
        self.device_sets: list[str] = []
        self.floats = {name: np.zeros(num_rows) for name in _FLOATS}
        self.ints = {name: np.zeros(num_rows, dtype=np.int64) for name in _INTS}
        self.bools = {name: np.zeros(num_rows, dtype=np.bool_) for name in _BOOLS}
        self.engines = np.zeros(num_rows, dtype=np.uint64)
        self.tiers: Tiers = np.zeros((num_models, num_rows), dtype=np.uint8)
        self.bound = Places(num_rows)
        self.resting = Places(num_rows)
        self.nbytes = np.zeros(num_models)
        self.num_bound = np.zeros(num_models, dtype=np.int64)
        self.num_dram = np.zeros(num_models, dtype=np.int64)
        self._engine_bits: dict[str, int] = {}
        self._rows: dict[tuple[str, str], int] = {}
        self._free: dict[int, None] = {}
        self._models: dict[str, int] = {}
        self._revisions: list[str] = []

    @property
    def num_rows(self) -> int:
        """Rows in use, those of agents that left included (they are not alive)."""
        return len(self.agent_ids)

    @property
    def nbytes_held(self) -> int:
        """Memory of the arrays."""
        arrays = [*self.floats.values(), *self.ints.values(), *self.bools.values(), self.engines, self.tiers]
        arrays += [self.nbytes, self.num_bound, self.num_dram]
        places = [self.bound.models, self.bound.marks, self.resting.models, self.resting.marks]
        return sum(array.nbytes for array in (*arrays, *places))

    def row(self, agent_id: str, device_set: str) -> int:
        """The row of that device set; a new one takes that of an agent that was lost, the longest gone first."""
        key = (agent_id, device_set)
        row = self._rows.get(key)
        if row is not None:
            self._free.pop(row, None)
            return row
        if self._free:
            row = next(iter(self._free))
            del self._free[row], self._rows[self.agent_ids[row], self.device_sets[row]]
            self.agent_ids[row], self.device_sets[row] = key
        else:
            row = len(self.agent_ids)
            self.agent_ids.append(agent_id)
            self.device_sets.append(device_set)
            if row >= len(self.engines):
                self._grow_rows(2 * len(self.engines))
        self._rows[key] = row
        return row

    def model(self, revision: str) -> int:
        """The index of a revision, made if it is new."""
        index = self._models.get(revision)
        if index is None:
            index = self._models[revision] = len(self._revisions)
            self._revisions.append(revision)
            if index >= len(self.nbytes):
                self._grow_models(2 * len(self.nbytes))
        return index

    def revision(self, model: int) -> str:
        """The revision of an index."""
        return self._revisions[model]

    def put(self, row: int, facts: NodeFacts) -> None:
        """Replace a node's numbers."""
        for arrays in (self.floats, self.ints, self.bools):
            for name, array in arrays.items():
                array[row] = getattr(facts, name)
        bits = 0
        for engine in facts.engines:
            bits |= self.engine_bit(engine)
        self.engines[row] = bits

    def engine_bit(self, engine: str) -> int:
        """The bit that stands for an engine."""
        return self._engine_bits.setdefault(engine, 1 << len(self._engine_bits))

    def set_tier(self, row: int, model: int, tier: int) -> None:
        """Where a revision's bytes are on a node: REMOTE, NVME or DRAM."""
        before = int(self.tiers[model, row])
        self.tiers[model, row] = tier
        self.num_dram[model] += int(tier == DRAM) - int(before == DRAM)
        self._rest(row, model)

    def set_bound(self, row: int, model: int, *, is_busy: bool | None) -> None:
        """A replica is bound, or being bound, there and in use or not; None: it is gone."""
        if is_busy is None:
            self.num_bound[model] -= self.bound.remove(row, model)
        else:
            self.num_bound[model] += self.bound.put(row, model, mark=is_busy)
        self._rest(row, model)

    def clear(self, row: int) -> None:
        """The agent is lost: nothing is known to be there, it is not alive, and its row may be taken by another."""
        self._free[row] = None
        self.bools["is_alive"][row] = False
        for model in self.bound.of(row):
            self.set_bound(row, model, is_busy=None)
        for model in np.flatnonzero(self.tiers[:, row] != REMOTE).tolist():
            self.set_tier(row, model, REMOTE)

    def forget_memory(self, row: int) -> None:
        """Before a snapshot is taken: what it does not name is not in DRAM, and not bound."""
        for model in self.bound.of(row):
            self.set_bound(row, model, is_busy=None)
        for model in np.flatnonzero(self.tiers[:, row] == DRAM).tolist():
            self.set_tier(row, model, NVME)

    def _rest(self, row: int, model: int) -> None:
        """Bytes in DRAM that no replica uses are what a load may evict."""
        if self.tiers[model, row] == DRAM and not self.bound.has(row, model):
            self.resting.put(row, model)
        else:
            self.resting.remove(row, model)

    def _grow_rows(self, num_rows: int) -> None:
        for arrays in (self.floats, self.ints, self.bools):
            for name, array in arrays.items():
                grown = np.zeros(num_rows, dtype=array.dtype)
                grown[: len(array)] = array
                arrays[name] = grown  # type: ignore[assignment]  # each dict keeps its own dtype
        engines = np.zeros(num_rows, dtype=np.uint64)
        engines[: len(self.engines)] = self.engines
        self.engines = engines
        tiers = np.zeros((self.tiers.shape[0], num_rows), dtype=np.uint8)
        tiers[:, : self.tiers.shape[1]] = self.tiers
        self.tiers = tiers

    def _grow_models(self, num_models: int) -> None:
        tiers = np.zeros((num_models, self.tiers.shape[1]), dtype=np.uint8)
        tiers[: self.tiers.shape[0]] = self.tiers
        self.tiers = tiers
        self.nbytes = np.concatenate([self.nbytes, np.zeros(num_models - len(self.nbytes))])
        more = np.zeros(num_models - len(self.num_bound), dtype=np.int64)
        self.num_bound = np.concatenate([self.num_bound, more])
        self.num_dram = np.concatenate([self.num_dram, more])
