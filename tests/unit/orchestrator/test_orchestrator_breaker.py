# SPDX-License-Identifier: Apache-2.0
"""When a circuit breaker opens, probes and closes again."""

from __future__ import annotations

from random import Random

from serverlessllm.orchestrator.breaker import FIRST_PAUSE_S, MAX_FAILURES, MAX_PAUSE_S, Breaker
from support.hand_clock import HandClock

LONGEST_JITTER = 1.5
SHORTEST_JITTER = 0.5


def seen(breaker: Breaker) -> tuple[str, bool]:
    """Its state, and whether a request may go there."""
    return breaker.state, breaker.admits


def opened(clock: HandClock) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(clock, Random(1))
    for _ in range(MAX_FAILURES):
        breaker.failed()
    return breaker


def test_failures_in_a_row_open_it_and_an_answer_between_them_does_not() -> None:
    breaker = Breaker(HandClock())
    for _ in range(5):
        for _ in range(MAX_FAILURES - 1):
            breaker.failed()
        breaker.succeeded()
    assert seen(breaker) == ("closed", True)
    for _ in range(MAX_FAILURES):
        breaker.failed()
    assert seen(breaker) == ("open", False)


def test_after_its_pause_one_probe_goes_through_and_its_answer_closes_it() -> None:
    clock = HandClock()
    breaker = opened(clock)
    clock.advance(FIRST_PAUSE_S * SHORTEST_JITTER * 0.99)
    assert not breaker.admits
    clock.advance(FIRST_PAUSE_S * LONGEST_JITTER)
    assert seen(breaker) == ("half_open", True)
    breaker.begin()
    assert seen(breaker) == ("half_open", False)
    breaker.succeeded()
    assert seen(breaker) == ("closed", True)


def test_failed_probes_double_the_pause_up_to_a_bound() -> None:
    clock = HandClock()
    breaker = opened(clock)
    pause_s = FIRST_PAUSE_S
    for _ in range(12):
        clock.advance(pause_s * LONGEST_JITTER)
        breaker.begin()
        breaker.failed()
        pause_s = min(MAX_PAUSE_S, 2 * pause_s)
        clock.advance(pause_s * SHORTEST_JITTER * 0.99)
        assert not breaker.admits
    clock.advance(MAX_PAUSE_S * LONGEST_JITTER)
    assert breaker.admits


def test_probe_that_is_never_answered_is_followed_by_another() -> None:
    clock = HandClock()
    breaker = opened(clock)
    clock.advance(FIRST_PAUSE_S * LONGEST_JITTER)
    breaker.begin()
    clock.advance(FIRST_PAUSE_S * LONGEST_JITTER)
    assert breaker.admits


def test_what_began_before_it_opened_changes_nothing() -> None:
    clock = HandClock()
    breaker = opened(clock)
    breaker.succeeded()
    assert breaker.state == "open"
    breaker.failed()
    clock.advance(FIRST_PAUSE_S * LONGEST_JITTER)
    assert breaker.admits


def test_pauses_differ_so_that_probes_do_not_come_at_once() -> None:
    clock = HandClock()
    breakers = [Breaker(clock, Random(seed)) for seed in range(100)]
    for breaker in breakers:
        for _ in range(MAX_FAILURES):
            breaker.failed()
    clock.advance(FIRST_PAUSE_S)
    num_due = sum(breaker.admits for breaker in breakers)
    assert 20 < num_due < 80
