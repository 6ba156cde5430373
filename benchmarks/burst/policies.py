# SPDX-License-Identifier: Apache-2.0
"""The policies that are compared: the product's score under several weights, a baseline, and who knows the future."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from benchmarks.burst.figures import Sample
from benchmarks.burst.hardware import Hardware
from benchmarks.burst.simulation import Clairvoyant, Cluster, LruIdle, Policy, Scored
from benchmarks.burst.trace import NUM_MODELS, Call

WEIGHTS: Final[Mapping[str, Mapping[str, float]]] = {
    "random": {"queue": 0.0, "load": 0.0, "kv": 0.0, "evict": 0.0},
    "queue": {"queue": 1.0, "load": 0.0, "kv": 0.0, "evict": 0.0},
    "no_evict": {"queue": 1.0, "load": 1.0, "kv": 1.0, "evict": 0.0},
    "full": {"queue": 1.0, "load": 1.0, "kv": 1.0, "evict": 1.0},
}
"""The ablation: any node at random, the queue alone, without what others lose, and the whole score."""


def simulate(policy: str, hardware: Hardware, calls: Sequence[Call], seed: int) -> list[Sample]:
    """One trace in memory. `oracle` pools all seats and has all bytes in DRAM; see README.md for what that bounds."""
    if policy == "oracle":
        seats = hardware.num_nodes * hardware.num_seats
        hardware = replace(hardware, num_nodes=1, num_seats=seats, dram_models=NUM_MODELS)
    cluster = Cluster(hardware, _policy(policy, calls, seed))
    return [Sample(request.ttft_s, request.is_cold) for request in cluster.run(calls, NUM_MODELS)]


def _policy(name: str, calls: Sequence[Call], seed: int) -> Policy:
    if name == "oracle":
        return Clairvoyant(calls)
    if name == "lru_idle":
        return LruIdle()
    return Scored(WEIGHTS[name], seed)
