# SPDX-License-Identifier: Apache-2.0
"""Seats at a replica: granting, priorities, leaving in every phase, closing."""

from __future__ import annotations

import asyncio

import pytest

from serverlessllm.agent.queue import NO_DEADLINE_S, RequestQueue
from serverlessllm.agent.seats import NUM_AHEAD, Seats
from serverlessllm.errors import HoldDeadlineError, QueueFullError, ReplicaGoneError
from support.hand_clock import HandClock


class Guest:
    """Takes a seat and keeps it until told to leave."""

    def __init__(self, seats: Seats, *, priority: int = 0, deadline_s: float = NO_DEADLINE_S) -> None:
        self._seats = seats
        self._leave = asyncio.Event()
        self.is_seated = False
        self.task = asyncio.create_task(self._stay(priority, deadline_s))

    async def _stay(self, priority: int, deadline_s: float) -> None:
        async with self._seats.seat(priority, deadline_s):
            self.is_seated = True
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def open_seats(num: int, clock: HandClock | None = None, *, max_queue_length: int = 8) -> Seats:
    seats = Seats(
        RequestQueue(max_queue_length),
        clock or HandClock(),
        refusal=lambda: ReplicaGoneError("closed"),
        on_change=lambda: None,
    )
    if num:
        seats.open(num - NUM_AHEAD)
    return seats


async def test_more_guests_than_seats_wait_by_priority() -> None:
    seats = open_seats(1)
    first, patient, urgent = Guest(seats), Guest(seats, priority=5), Guest(seats, priority=1)
    await settle()
    assert (seats.num_taken, seats.num_waiting) == (1, 2)
    await first.leave()
    await settle()
    assert (urgent.is_seated, patient.is_seated) == (True, False)
    await urgent.leave()
    await patient.leave()
    assert seats.is_idle


async def test_guest_cancelled_in_the_moment_of_its_grant_gives_the_seat_back() -> None:
    seats = open_seats(1)
    first, second, third = Guest(seats), Guest(seats), Guest(seats)
    await settle()
    first._leave.set()
    await first.task  # grants the second, which has not run yet
    second.task.cancel()
    await settle()
    assert third.is_seated
    await third.leave()
    assert seats.is_idle


async def test_guest_cancelled_while_waiting_leaves_no_trace() -> None:
    seats = open_seats(1)
    first, second = Guest(seats), Guest(seats)
    await settle()
    second.task.cancel()
    await settle()
    assert (seats.num_taken, seats.num_waiting) == (1, 0)
    await first.leave()


async def test_deadline_ends_the_wait() -> None:
    seats = open_seats(1)
    first = Guest(seats)
    await settle()
    with pytest.raises(HoldDeadlineError):
        await Guest(seats, deadline_s=0.0).task
    assert seats.num_waiting == 0
    await first.leave()


async def test_full_queue_refuses_without_a_trace() -> None:
    seats = open_seats(1, max_queue_length=1)
    first, second = Guest(seats), Guest(seats)
    await settle()
    with pytest.raises(QueueFullError):
        await Guest(seats).task
    assert (seats.num_taken, seats.num_waiting) == (1, 1)
    await first.leave()
    await second.leave()


async def test_closing_sends_away_who_waits_and_lets_who_sits_finish() -> None:
    seats = open_seats(1)
    first, second = Guest(seats), Guest(seats)
    await settle()
    seats.close()
    with pytest.raises(ReplicaGoneError):
        await second.task
    assert not seats.empty.is_set()
    await first.leave()
    assert seats.empty.is_set()


async def test_seats_not_open_refuse() -> None:
    with pytest.raises(ReplicaGoneError):
        await Guest(open_seats(0)).task


async def test_idle_time_counts_from_the_last_leaving() -> None:
    clock = HandClock()
    seats = open_seats(2, clock)
    guest = Guest(seats)
    await settle()
    clock.advance(10.0)
    assert seats.idle_s == 0.0
    await guest.leave()
    clock.advance(3.0)
    assert seats.idle_s == 3.0


async def test_retry_after_follows_how_long_requests_take() -> None:
    clock = HandClock()
    seats = open_seats(1, clock, max_queue_length=1)
    for _ in range(50):
        guest = Guest(seats)
        await settle()
        clock.advance(20.0)
        await guest.leave()
    first, second = Guest(seats), Guest(seats)
    await settle()
    with pytest.raises(QueueFullError) as caught:
        await Guest(seats).task
    assert caught.value.retry_after_s == pytest.approx(20.0, rel=0.01)
    await first.leave()
    await second.leave()
