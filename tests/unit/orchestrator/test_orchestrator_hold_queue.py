# SPDX-License-Identifier: Apache-2.0
"""Who may wait for a model, and what the others are told."""

from __future__ import annotations

import pytest

from serverlessllm.errors import QueueFullError
from serverlessllm.orchestrator.hold_queue import FIRST_GUESS_S, MIN_RETRY_S, HoldQueue
from support.hand_clock import HandClock


def refused_s(queue: HoldQueue, num_waiting: int, began_s: float = 0.0) -> float:
    """When one more is told to come again."""
    with pytest.raises(QueueFullError) as caught:
        queue.enter("m", num_waiting, began_s)
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


def test_more_than_its_bound_wait_for_no_model_and_no_more_in_all() -> None:
    queue = HoldQueue(2, 3, lambda model: None, HandClock())
    for num_waiting in (0, 1):
        queue.enter("m", num_waiting, 0.0)
    refused_s(queue, 2)
    queue.enter("other", 0, 0.0)
    refused_s(queue, 1)
    queue.leave()
    queue.enter("other", 1, 0.0)


def test_the_rest_of_the_load_is_when_to_come_again() -> None:
    queue = HoldQueue(1, 10, lambda model: 42.0, HandClock())
    assert refused_s(queue, 1) == 42.0


def test_without_a_load_the_last_wake_ups_tell_how_long_it_takes() -> None:
    clock = HandClock()
    queue = HoldQueue(1, 10, lambda model: None, clock)
    assert refused_s(queue, 1) == FIRST_GUESS_S
    for _ in range(40):
        queue.took(20.0)
    clock.advance(15.0)
    assert refused_s(queue, 1, began_s=0.0) == pytest.approx(5.0, abs=0.1)
    clock.advance(100.0)
    assert refused_s(queue, 1, began_s=0.0) == MIN_RETRY_S
