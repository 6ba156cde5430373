# SPDX-License-Identifier: Apache-2.0
"""When a model should have more replicas, or fewer."""

from __future__ import annotations

import pytest

from serverlessllm.orchestrator.scaling.rules import Load, has_spare, is_rising, wait_s


def test_shortest_queue_is_what_the_next_request_waits_for() -> None:
    assert wait_s([Load(12, 4, 2.0), Load(5, 4, 2.0)]) == 1.0
    assert wait_s([Load(3, 4, 2.0)]) == 0.0
    assert wait_s([]) == float("inf")


def test_queue_of_requests_that_nobody_has_timed_yet_is_no_wait() -> None:
    assert wait_s([Load(50, 4, 0.0)]) == 0.0
    assert wait_s([Load(50, 4, 0.0), Load(5, 4, 2.0)]) == 1.0


@pytest.mark.parametrize(
    ("loads", "spare"),
    [
        ([Load(0, 8, 1.0)], False),
        ([Load(1, 8, 1.0), Load(3, 8, 1.0)], True),
        ([Load(2, 8, 1.0), Load(3, 8, 1.0)], False),
        ([Load(0, 8, 1.0), Load(0, 2, 1.0)], True),
    ],
)
def test_replica_is_spare_when_the_others_have_room_for_its_share_and_more(
    loads: list[Load], spare: bool
) -> None:
    assert has_spare(loads) is spare


def test_demand_rises_only_when_it_also_fills_the_seats() -> None:
    assert is_rising(fast_per_s=6.0, slow_per_s=2.0, loads=[Load(4, 8, 1.0)])
    assert not is_rising(fast_per_s=6.0, slow_per_s=5.0, loads=[Load(4, 8, 1.0)])
    assert not is_rising(fast_per_s=3.0, slow_per_s=1.0, loads=[Load(4, 8, 1.0)])
    assert not is_rising(fast_per_s=3.0, slow_per_s=1.0, loads=[])
