# SPDX-License-Identifier: Apache-2.0
"""Each term in seconds."""

from __future__ import annotations

import numpy as np
import pytest

from serverlessllm.orchestrator.placement.terms.evict import HORIZON_S, chance, cheapest
from serverlessllm.orchestrator.placement.terms.failures import failures_s
from serverlessllm.orchestrator.placement.terms.kv import kv_s
from serverlessllm.orchestrator.placement.terms.load import (
    ASSUMED_NVME_BYTES_PER_S,
    BOUND,
    DRAM,
    NVME,
    REMOTE,
    load_s,
)
from serverlessllm.orchestrator.placement.terms.queue_wait import node_wait_s, replica_wait_s, seat_wait_s

SEEN = np.array([10.0, 10.0, 10.0, 10.0])


def test_load_is_the_slowest_hop_that_the_bytes_still_have_to_go() -> None:
    tiers = np.array([REMOTE, NVME, DRAM, BOUND], dtype=np.uint8)
    assert load_s(tiers, 100, SEEN, SEEN * 2, SEEN * 5).tolist() == [10.0, 5.0, 2.0, 0.0]


def test_hop_never_seen_is_assumed() -> None:
    unseen = np.zeros(1)
    tiers = np.array([NVME], dtype=np.uint8)
    assert load_s(tiers, ASSUMED_NVME_BYTES_PER_S, unseen, unseen, unseen).tolist() == [1.0]


def test_hop_that_only_other_nodes_took_is_taken_as_fast_as_there() -> None:
    tiers = np.array([NVME, NVME, NVME], dtype=np.uint8)
    seen = np.array([10.0, 30.0, 0.0])
    assert load_s(tiers, 60, seen, seen, np.full(3, 1e9)).tolist() == [6.0, 2.0, 3.0]


def test_request_waits_for_a_seat_only_when_all_are_taken() -> None:
    waits = seat_wait_s(np.array([3.0, 4.0, 11.0]), np.full(3, 4.0), np.full(3, 2.0))
    assert waits.tolist() == [0.0, 0.5, 4.0]
    assert seat_wait_s(np.array([50.0]), np.zeros(1), np.ones(1)).tolist() == [0.0]


def test_prompts_before_ours_are_waited_for() -> None:
    assert replica_wait_s(np.array([2.0]), np.array([8.0]), np.ones(1), np.array([0.25])).tolist() == [0.5]


def test_node_that_reads_for_others_is_waited_for_only_by_who_needs_its_disk() -> None:
    needs = np.array([True, False])
    waits = node_wait_s(np.array([2.0, 2.0]), needs, np.array([0, 0]), np.array([4, 4]), 0.8)
    assert waits.tolist() == [2.0, 0.0]


def test_load_without_a_seat_waits_for_as_many_ends_as_are_before_it() -> None:
    waits = node_wait_s(
        np.zeros(3), np.zeros(3, dtype=np.bool_), np.array([1, 2, 1]), np.array([4, 4, 1]), 0.8
    )
    assert waits.tolist() == [0.4, 0.8, 1.6]


def test_uncached_tokens_cost_what_a_token_of_a_prompt_takes() -> None:
    assert kv_s(np.array([500.0]), np.array([0.002])).tolist() == [1.0]


@pytest.mark.parametrize(("num_failures", "seconds"), [(0, 0.0), (1, 1.0), (3, 4.0), (50, 30.0)])
def test_failures_in_a_row_cost_ever_more_up_to_a_bound(num_failures: int, seconds: float) -> None:
    assert failures_s(np.array([num_failures])).tolist() == [seconds]


def test_chance_of_a_call_rises_with_the_rate_and_never_passes_one() -> None:
    chances = chance(np.array([0.0, 1 / HORIZON_S, 100.0]))
    assert chances.tolist() == pytest.approx([0.0, 0.632, 1.0], abs=1e-3)


def test_cheapest_victim_counts_and_no_victim_costs_nothing() -> None:
    values = np.array([[3.0, 1.0, np.inf], [np.inf, np.inf, np.inf]])
    assert cheapest(values).tolist() == [1.0, 0.0]
