# SPDX-License-Identifier: Apache-2.0
"""What the going of each bound or resting model would cost its next callers: the numbers behind the `evict` term."""

from __future__ import annotations

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Floats, Ints
from serverlessllm.orchestrator.placement.demand import Demand
from serverlessllm.orchestrator.placement.nodes import NodeTable
from serverlessllm.orchestrator.placement.places import EMPTY
from serverlessllm.orchestrator.placement.terms.evict import chance, cheapest
from serverlessllm.orchestrator.placement.terms.load import (
    ASSUMED_DEVICE_BYTES_PER_S,
    ASSUMED_NVME_BYTES_PER_S,
    seen_or,
)


def seat_losses_s(table: NodeTable, demand: Demand, now_s: float) -> Floats:
    """Per row and seat: what unbinding costs; infinite where the seat is empty."""
    models, marks = table.bound.models[: table.num_rows], table.bound.marks[: table.num_rows]
    speed = seen_or(table.floats["device_bytes_per_s"][: table.num_rows], ASSUMED_DEVICE_BYTES_PER_S)
    called = np.where(marks, 1.0, chance(demand.rates(models, now_s)))
    return _losses_s(table, models, called * (table.num_bound[models] <= 1), speed)


def memory_losses_s(table: NodeTable, demand: Demand, now_s: float, models: Ints) -> Floats:
    """Per row and place of `models` (bound or resting): what dropping the bytes costs; infinite where it is empty."""
    speed = seen_or(table.floats["nvme_bytes_per_s"][: table.num_rows], ASSUMED_NVME_BYTES_PER_S)
    called = chance(demand.rates(models, now_s))
    return _losses_s(table, models, called * (table.num_dram[models] <= 1), speed)


def evict_s(
    table: NodeTable, demand: Demand, now_s: float, nbytes: float, needs_memory: np.ndarray
) -> Floats:
    """The `evict` term of every row for a load of `nbytes`; see `terms/evict.py`."""
    num_rows = table.num_rows
    bound, resting = table.bound.models[:num_rows], table.resting.models[:num_rows]
    seats = table.ints["num_seats"][:num_rows]
    is_full = (seats > 0) & ((bound != EMPTY).sum(axis=1) >= seats)
    seat_s = np.where(is_full, cheapest(seat_losses_s(table, demand, now_s)), 0.0)
    free_bytes = table.floats["budget_bytes"][:num_rows] - table.floats["used_bytes"][:num_rows]
    missing_bytes = np.where(needs_memory, np.maximum(0.0, nbytes - free_bytes), 0.0)
    if not missing_bytes.any():
        return seat_s
    per_byte = _per_byte(table, memory_losses_s(table, demand, now_s, resting), resting)
    of_bound = _per_byte(table, memory_losses_s(table, demand, now_s, bound), bound)
    has_resting = (resting != EMPTY).any(axis=1)
    rate = np.where(has_resting, cheapest(per_byte), cheapest(of_bound))
    total: Floats = seat_s + missing_bytes * rate
    return total


def losses_of(table: NodeTable, demand: Demand, now_s: float, row: int) -> dict[str, tuple[float, float]]:
    """Revision → (seconds that unbinding costs, seconds that dropping its bytes costs), for what is on one node."""
    found: dict[str, tuple[float, float]] = {}
    device = float(table.floats["device_bytes_per_s"][row]) or ASSUMED_DEVICE_BYTES_PER_S
    nvme = float(table.floats["nvme_bytes_per_s"][row]) or ASSUMED_NVME_BYTES_PER_S
    for model in {*table.bound.of(row), *table.resting.of(row)}:
        called = float(chance(demand.rates(np.array([model]), now_s))[0])
        nbytes = float(table.nbytes[model])
        unbind_s = called * nbytes / device if table.num_bound[model] <= 1 else 0.0
        drop_s = called * nbytes / nvme if table.num_dram[model] <= 1 else 0.0
        found[table.revision(model)] = (round(unbind_s, 4), round(drop_s, 4))
    return found


def _losses_s(table: NodeTable, models: Ints, called: Floats, bytes_per_s: Floats) -> Floats:
    return np.where(models == EMPTY, np.inf, called * table.nbytes[models] / bytes_per_s[:, None])


def _per_byte(table: NodeTable, losses_s: Floats, models: Ints) -> Floats:
    return losses_s / np.maximum(1.0, table.nbytes[models])
