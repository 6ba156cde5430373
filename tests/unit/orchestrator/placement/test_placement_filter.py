# SPDX-License-Identifier: Apache-2.0
"""Which agents may take a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serverlessllm.orchestrator.placement.facts import AgentFacts, Need
from serverlessllm.orchestrator.placement.filter import reject

NEED = Need("m", "r", "torch", nbytes=100)
FIT = AgentFacts(
    agent_id="a",
    device_set="cpu",
    is_alive=True,
    is_drained=False,
    engines=frozenset({"torch"}),
    budget_bytes=100,
    bytes_missing=100,
    bytes_per_s=1e9,
    queue_s=0.0,
    num_failures=0,
)


def test_agent_with_everything_is_not_rejected() -> None:
    assert reject(NEED, FIT, frozenset()) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_alive": False}, "alive"),
        ({"is_drained": True}, "drained"),
        ({"engines": frozenset({"simulated"})}, "engine"),
        ({"max_num_ranks": 0}, "ranks"),
        ({"budget_bytes": 99}, "memory"),
    ],
)
def test_agent_that_lacks_one_thing_is_rejected_for_it(change: dict[str, Any], reason: str) -> None:
    assert reject(NEED, replace(FIT, **change), frozenset()) == reason


def test_agent_that_failed_this_wake_up_is_excluded() -> None:
    assert reject(NEED, FIT, frozenset({"a"})) == "excluded"


def test_missing_engine_is_told_before_missing_memory() -> None:
    assert reject(NEED, replace(FIT, engines=frozenset(), budget_bytes=0), frozenset()) == "engine"
