# SPDX-License-Identifier: Apache-2.0
"""The burst benchmark's trace and its cluster in memory."""

from __future__ import annotations

from collections import Counter
from statistics import mean, pstdev

import pytest
from benchmarks.burst import trace
from benchmarks.burst.figures import Sample, comparisons, policy_figures
from benchmarks.burst.hardware import Hardware
from benchmarks.burst.policies import simulate


def test_committed_trace_never_changes() -> None:
    assert trace.digest(trace.make_trace(trace.SEEDS[0], 120.0)) == trace.DIGEST


def test_gaps_are_as_bursty_and_ranks_as_skewed_as_stated() -> None:
    calls = trace.make_trace(1, 600.0)
    gaps = [later.at_s - call.at_s for call, later in zip(calls, calls[1:], strict=False)]
    assert mean(gaps) == pytest.approx(1 / trace.RATE_PER_S, rel=0.1)
    assert pstdev(gaps) / mean(gaps) == pytest.approx(trace.CV, rel=0.1)
    first, second = (
        Counter(call.model for call in calls if begin <= call.at_s < begin + 60) for begin in (0, 60)
    )
    assert [counter.most_common(1)[0][0] for counter in (first, second)] == [0, trace.ROTATE_BY]


@pytest.mark.parametrize("policy", ["oracle", "lru_idle", "random", "queue", "no_evict", "full"])
def test_every_call_is_answered_after_it_came_and_prefill_at_least(policy: str) -> None:
    calls = trace.make_trace(3, 20.0)
    samples = simulate(policy, Hardware(num_seats=4), calls, seed=3)
    assert len(samples) == len(calls)
    assert min(sample.ttft_s for sample in samples) >= Hardware().prefill_s - 1e-9
    assert 0 < sum(sample.is_cold for sample in samples) < len(samples)


def test_score_that_knows_where_bytes_are_beats_the_queue_alone() -> None:
    runs = {
        policy: [
            simulate(policy, Hardware(num_seats=4), trace.make_trace(seed, 60.0), seed) for seed in (1, 2)
        ]
        for policy in ("full", "queue", "random")
    }
    found = comparisons("slots4", runs)
    assert found["slots4_full_over_queue_p95_ratio"] < 0.7
    assert found["slots4_full_over_random_p95_ratio"] < 0.5


def test_failed_calls_are_counted_and_have_no_ttft() -> None:
    samples = [Sample(1.0, True), Sample(0.1, False), Sample(50.0, True, 503)]
    found = policy_figures("p", [samples])
    assert (found["p_non_2xx"], found["p_p99_ttft_s"], found["p_cold_share_ratio"]) == (1.0, 1.0, 0.5)
