# SPDX-License-Identifier: Apache-2.0
"""Where a model is loaded: one decision over all nodes at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Floats, Tiers
from serverlessllm.orchestrator.placement.decide import Decision, decide
from serverlessllm.orchestrator.placement.demand import Demand
from serverlessllm.orchestrator.placement.filter import rejections
from serverlessllm.orchestrator.placement.losses import evict_s
from serverlessllm.orchestrator.placement.nodes import NodeTable
from serverlessllm.orchestrator.placement.places import EMPTY
from serverlessllm.orchestrator.placement.terms.failures import failures_s
from serverlessllm.orchestrator.placement.terms.kv import kv_s
from serverlessllm.orchestrator.placement.terms.load import DRAM, NVME, load_s
from serverlessllm.orchestrator.placement.terms.queue_wait import node_wait_s


@dataclass(frozen=True, slots=True)
class Need:
    """A model that shall be loaded. `nbytes` are its weights; `has_origins`: whether a node may lack them on disk.

    `prompt_tokens` of the request that waits; nothing of it is cached where nothing is loaded. `num_ranks` devices of
    one node compute it together.
    """

    revision: str
    engine: str
    nbytes: int
    has_origins: bool = False
    prompt_tokens: int = 0
    service_s: float = 0.0
    num_ranks: int = 1


def place(
    table: NodeTable,
    demand: Demand,
    need: Need,
    *,
    excluded: Collection[int],
    token_s: Floats,
    weights: Mapping[str, float],
    now_s: float,
    rng: Random,
) -> Decision:
    """Decide among all rows. `excluded` are rows; `token_s` seconds per prompt token by row."""
    model = table.model(need.revision)
    table.nbytes[model] = need.nbytes
    tiers = _tiers(table, model, need)
    rejected = _rejected(table, need, excluded)
    terms_s = {
        "queue": _queue_s(table, tiers, need.service_s),
        "load": load_s(
            tiers,
            need.nbytes,
            *(
                table.floats[name][: table.num_rows]
                for name in ("remote_bytes_per_s", "nvme_bytes_per_s", "device_bytes_per_s")
            ),
        ),
        "kv": kv_s(np.full(table.num_rows, float(need.prompt_tokens)), token_s),
        "evict": evict_s(table, demand, now_s, need.nbytes, tiers < DRAM),
        "failures": failures_s(table.ints["num_failures"][: table.num_rows]),
    }
    return decide(rejected, terms_s, weights, rng)


def _tiers(table: NodeTable, model: int, need: Need) -> Tiers:
    tiers = table.tiers[model, : table.num_rows]
    return tiers if need.has_origins else np.maximum(tiers, NVME).astype(np.uint8)


def _queue_s(table: NodeTable, tiers: Tiers, service_s: float) -> Floats:
    num_rows = table.num_rows
    taken = table.bound.models[:num_rows] != EMPTY
    num_busy = (taken & table.bound.marks[:num_rows]).sum(axis=1)
    seats = table.ints["num_seats"][:num_rows]
    num_short = np.where(seats > 0, np.maximum(0, num_busy + 1 - seats), 0)  # idle ones are as good as free
    in_use = np.minimum(num_busy, seats)
    return node_wait_s(table.floats["loads_s"][:num_rows], tiers < DRAM, num_short, in_use, service_s)


def _rejected(table: NodeTable, need: Need, excluded: Collection[int]) -> Tiers:
    num_rows = table.num_rows
    is_excluded = np.zeros(num_rows, dtype=np.bool_)
    is_excluded[list(excluded)] = True
    bools = {name: array[:num_rows] for name, array in table.bools.items()}
    bit = np.uint64(table.engine_bit(need.engine))
    return rejections(
        (
            is_excluded,
            ~bools["is_alive"],
            ~bools["speaks"],
            bools["is_drained"],
            (table.engines[:num_rows] & bit) == 0,
            table.ints["max_num_ranks"][:num_rows] < need.num_ranks,
            table.floats["budget_bytes"][:num_rows] < need.nbytes,
        )
    )
