# SPDX-License-Identifier: Apache-2.0
"""Recompute or copy: the cheaper one in seconds, by length and what was observed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.migration.cost import MoveLoad, ObservedRate, move_cost

MESSAGE_BYTES = 8 << 20
BLOCK = {"block_tokens": 32, "block_bytes": 720 << 10}


def mode(num_tokens: int, *, token_s: float, bytes_per_s: float, cached_tokens: int = 0) -> str:
    load = MoveLoad(num_tokens, cached_tokens, **BLOCK)
    return move_cost(load, token_s=token_s, bytes_per_s=bytes_per_s, message_bytes=MESSAGE_BYTES).mode


def test_fast_links_copy_and_slow_ones_recompute() -> None:
    assert mode(2000, token_s=1e-3, bytes_per_s=1e9) == "copy"
    assert mode(2000, token_s=1e-3, bytes_per_s=10e6) == "recompute"


def test_short_or_cached_requests_are_computed() -> None:
    assert mode(31, token_s=1e-3, bytes_per_s=1e9) == "recompute"
    assert mode(2000, token_s=1e-3, bytes_per_s=1e9, cached_tokens=1999) == "recompute"


def test_engine_without_blocks_is_never_copied() -> None:
    cost = move_cost(MoveLoad(500), token_s=1e-3, bytes_per_s=1e9, message_bytes=MESSAGE_BYTES)
    assert (cost.mode, cost.seconds, cost.copy_s) == ("recompute", 0.5, None)


@given(st.integers(0, 8000), st.integers(0, 8000), st.floats(1e-6, 1e-1), st.floats(1e3, 1e11))
def test_chosen_way_is_never_the_dearer_one(
    num_tokens: int, cached: int, token_s: float, bytes_per_s: float
) -> None:
    load = MoveLoad(num_tokens, cached, **BLOCK)
    cost = move_cost(load, token_s=token_s, bytes_per_s=bytes_per_s, message_bytes=MESSAGE_BYTES)
    assert cost.copy_s is not None
    assert cost.seconds == min(cost.recompute_s, cost.copy_s) >= 0


def test_first_observation_replaces_the_prior_and_later_ones_are_smoothed() -> None:
    rate = ObservedRate(1.0)
    rate.note(0, 5.0)
    assert rate.seconds_per_unit == 1.0
    rate.note(100, 1.0)
    assert rate.seconds_per_unit == 0.01
    rate.note(100, 2.0)
    assert 0.01 < rate.seconds_per_unit < 0.02
