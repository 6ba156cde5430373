# SPDX-License-Identifier: Apache-2.0
"""Expected seconds of a wake-up."""

from __future__ import annotations

from typing import Any

import pytest

from serverlessllm.orchestrator.placement.facts import AgentFacts
from serverlessllm.orchestrator.placement.score import DEFAULT_WEIGHTS, UNOBSERVED_BYTES_PER_S, score, terms


def facts(**fields: Any) -> AgentFacts:
    defaults: dict[str, Any] = {
        "agent_id": "a",
        "device_set": "cpu",
        "is_alive": True,
        "is_drained": False,
        "engines": frozenset({"torch"}),
        "budget_bytes": 1 << 40,
        "bytes_missing": 0,
        "bytes_per_s": 0.0,
        "queue_s": 0.0,
        "num_failures": 0,
    }
    return AgentFacts(**{**defaults, **fields})


def test_load_is_missing_bytes_over_observed_bandwidth() -> None:
    assert terms(facts(bytes_missing=3_000, bytes_per_s=1_500.0))["load"] == 2.0


def test_unobserved_bandwidth_is_assumed() -> None:
    assert terms(facts(bytes_missing=int(UNOBSERVED_BYTES_PER_S)))["load"] == 1.0


def test_bytes_in_memory_cost_nothing() -> None:
    assert score(terms(facts(bytes_per_s=1.0)), DEFAULT_WEIGHTS) == 0.0


@pytest.mark.parametrize(("num_failures", "seconds"), [(0, 0.0), (1, 1.0), (3, 4.0), (50, 30.0)])
def test_failures_in_a_row_cost_ever_more_up_to_a_bound(num_failures: int, seconds: float) -> None:
    assert terms(facts(num_failures=num_failures))["failures"] == seconds


def test_score_is_the_weighted_sum_and_unknown_terms_count_once() -> None:
    assert score({"queue": 2.0, "load": 3.0, "new": 5.0}, {"queue": 10.0, "load": 0.0}) == 25.0


def test_uncached_tokens_cost_what_a_token_of_a_prompt_takes() -> None:
    assert terms(facts(uncached_prompt_tokens=500, prefill_token_s=0.002))["kv"] == 1.0
