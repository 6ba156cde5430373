# SPDX-License-Identifier: Apache-2.0
"""The bounded queue: order, deadlines, bounds, leaving."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.agent.queue import RequestQueue
from serverlessllm.errors import HoldDeadlineError, QueueFullError, ReplicaGoneError


async def test_pop_goes_by_priority_then_deadline_then_arrival() -> None:
    queue = RequestQueue(10)
    late = queue.push(1, 50.0)
    first = queue.push(1)
    second = queue.push(1)
    urgent = queue.push(0)
    assert [queue.pop(0.0) for _ in range(5)] == [urgent, late, first, second, None]


async def test_full_queue_refuses_and_says_when_to_retry() -> None:
    queue = RequestQueue(1)
    queue.push(0)
    with pytest.raises(QueueFullError) as caught:
        queue.push(0, retry_after_s=7.0)
    assert caught.value.retry_after_s == 7.0
    assert len(queue) == 1


async def test_pop_fails_entries_whose_deadline_has_passed() -> None:
    queue = RequestQueue(10)
    expired, waiting = queue.push(0, 5.0), queue.push(1, 20.0)
    assert queue.pop(10.0) is waiting
    with pytest.raises(HoldDeadlineError):
        await expired.granted


async def test_discarded_entry_is_never_popped() -> None:
    queue = RequestQueue(10)
    left, stays = queue.push(0), queue.push(0)
    queue.discard(left)
    queue.discard(left)
    assert (queue.pop(0.0), queue.pop(0.0)) == (stays, None)


async def test_entry_that_failed_while_waiting_is_skipped() -> None:
    queue = RequestQueue(10)
    expired, stays = queue.push(0), queue.push(1)
    expired.expire()
    assert queue.pop(0.0) is stays
    with pytest.raises(HoldDeadlineError):
        await expired.granted
    assert not expired.is_granted


async def test_fail_all_gives_each_its_own_error() -> None:
    queue = RequestQueue(10)
    entries = [queue.push(0), queue.push(0)]
    queue.fail_all(lambda: ReplicaGoneError("gone"))
    errors = [entry.granted.exception() for entry in entries]
    assert errors[0] is not errors[1]
    assert all(isinstance(error, ReplicaGoneError) for error in errors)
    assert len(queue) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([10.0, 20.0, float("inf")])), max_size=30))
async def test_pops_are_sorted_and_complete(requests: list[tuple[int, float]]) -> None:
    queue = RequestQueue(30)
    for priority, deadline_s in requests:
        queue.push(priority, deadline_s)
    orders = []
    while (entry := queue.pop(0.0)) is not None:
        orders.append(entry.order)
    assert orders == sorted(orders)
    assert [order[:2] for order in orders] == sorted(requests)
