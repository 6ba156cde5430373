# SPDX-License-Identifier: Apache-2.0
"""Connections follow weights, whoever comes and goes."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.loader.transfer.fetch_shares import FetchShares
from serverlessllm.loader.transfer.turns import weight_of


def test_step_of_priority_doubles_the_connections() -> None:
    shares = FetchShares(8)
    with (
        shares.join(weight_of(0)) as plain,
        shares.join(weight_of(1)) as high,
        shares.join(weight_of(-1)) as low,
    ):
        assert (low.num_connections, plain.num_connections, high.num_connections) == (2, 4, 8)


def test_lone_fetch_has_all_and_has_them_again_when_the_other_has_ended() -> None:
    shares = FetchShares(8)
    with shares.join(weight_of(-4)) as low:
        assert low.num_connections == 8
        with shares.join(weight_of(2)):
            assert low.num_connections == 1
        assert low.num_connections == 8


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=6), st.integers(1, 64))
def test_everybody_has_a_connection_and_the_heaviest_all(priorities: list[int], most: int) -> None:
    shares = FetchShares(most)
    with ExitStack() as stack:
        joined = [stack.enter_context(shares.join(weight_of(priority))) for priority in priorities]
        counts = [share.num_connections for share in joined]
    assert min(counts) >= 1 and max(counts) == most
    assert sorted(counts) == [count for _, count in sorted(zip(priorities, counts, strict=True))]


def test_weight_without_a_share_is_refused() -> None:
    with pytest.raises(ValueError, match="no share"), FetchShares(8).join(0.0):
        pass
