# SPDX-License-Identifier: Apache-2.0
"""Pacing, backing off, giving up: pure state of one origin."""

from __future__ import annotations

import random

import pytest

from serverlessllm.sources.origin import MAX_BACKOFF_S, MAX_FAILURES, Origin, choose, paces
from support.byte_origin import ByteOrigin

MIB = 1 << 20


def origin(name: str = "origin", seed: int = 1) -> Origin:
    return Origin(ByteOrigin(b"", name=name), random.Random(seed))


def serve(one: Origin, nbytes: int, began_s: float, took_s: float) -> None:
    one.begin(nbytes, began_s)
    one.succeeded(nbytes, began_s + took_s)
    one.end(nbytes, began_s + took_s)


def test_pace_is_bytes_over_the_time_in_which_something_was_asked() -> None:
    one = origin()
    serve(one, 8 * MIB, 0.0, 1.0)
    serve(one, 8 * MIB, 100.0, 1.0)
    assert one.pace(200.0) == pytest.approx(8 * MIB)
    assert one.report().busy_s == pytest.approx(2.0)


def test_pace_counts_requests_side_by_side_together() -> None:
    one = origin()
    for _ in range(4):
        one.begin(MIB, 0.0)
    for _ in range(4):
        one.succeeded(MIB, 1.0)
        one.end(MIB, 1.0)
    assert one.pace(1.0) == pytest.approx(4 * MIB, rel=0.3)


def test_overdue_answer_lowers_the_pace() -> None:
    one = origin()
    serve(one, MIB, 0.0, 1.0)
    one.begin(MIB, 1.0)
    assert one.pace(11.0) == pytest.approx(MIB / 10)


def test_waits_double_with_jitter_up_to_a_bound_and_end() -> None:
    one = origin()
    now_s = 0.0
    waits: list[float] = []
    while one.closed is None:
        one.failed("HTTP 500", now_s, now_s)
        waits.append(one.not_before_s - now_s)
        now_s = max(now_s, one.not_before_s) + 0.001
    assert len(waits) == MAX_FAILURES and "HTTP 500 (10 failures in a row)" in one.closed
    assert all(0.05 * 2**n <= wait <= 0.1 * 2**n for n, wait in enumerate(waits[:6]))
    assert max(waits) <= MAX_BACKOFF_S


def test_requests_that_fail_together_count_once() -> None:
    one = origin()
    for _ in range(MAX_FAILURES * 3):
        one.failed("refused", began_s=0.0, now_s=1.0)
    assert one.closed is None and one.report().num_failures == MAX_FAILURES * 3


def test_success_forgives_failures() -> None:
    one = origin()
    for number in range(MAX_FAILURES * 2):
        one.failed("HTTP 500", number * 100.0, number * 100.0)
        serve(one, MIB, number * 100.0 + 50, 1.0)
    assert one.closed is None


def test_server_that_names_a_time_is_not_asked_before() -> None:
    one = origin()
    one.failed("HTTP 429", 0.0, 0.0, retry_after_s=7.0)
    assert one.not_before_s == 7.0


def test_unknown_pace_is_taken_to_be_the_best() -> None:
    slow, fast, new = origin("slow"), origin("fast"), origin("new")
    serve(slow, MIB, 0.0, 10.0)
    serve(fast, MIB, 0.0, 1.0)
    assert paces([slow, fast, new], 10.0)[new] == pytest.approx(MIB)


def test_each_origin_is_asked_in_proportion_to_its_pace() -> None:
    slow, fast = origin("slow"), origin("fast")
    serve(slow, MIB, 0.0, 4.0)
    serve(fast, MIB, 0.0, 1.0)
    for _ in range(10):
        choose([slow, fast], MIB, 1000 * MIB, 4.0).begin(MIB, 4.0)
    assert (slow.num_outstanding, fast.num_outstanding) == (2, 8)


def test_idle_slow_origin_gets_a_piece_but_not_when_it_would_hold_up_the_end() -> None:
    slow, fast = origin("slow"), origin("fast")
    serve(slow, MIB, 0.0, 100.0)
    serve(fast, MIB, 0.0, 1.0)
    fast.begin(MIB, 100.0)
    assert choose([slow, fast], MIB, 1000 * MIB, 100.0) is slow
    assert choose([slow, fast], MIB, 10 * MIB, 100.0) is fast
