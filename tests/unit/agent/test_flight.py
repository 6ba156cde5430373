# SPDX-License-Identifier: Apache-2.0
"""Work shared by several callers: one run, ended when the last leaves."""

from __future__ import annotations

import asyncio

import pytest

from serverlessllm.agent.flight import Flight
from serverlessllm.errors import ModelLoadError, ReplicaGoneError


class Work:
    """Counts its runs and notes its cancellation."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.num_runs = 0
        self.was_cancelled = False

    async def run(self) -> int:
        self.num_runs += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return self.num_runs


async def test_all_joiners_get_the_one_result() -> None:
    work = Work()
    flight = Flight(work.run())
    joins = [asyncio.create_task(flight.join()) for _ in range(3)]
    await asyncio.sleep(0)
    work.release.set()
    assert await asyncio.gather(*joins) == [1, 1, 1]


async def test_work_goes_on_while_one_joiner_is_left() -> None:
    work = Work()
    flight = Flight(work.run())
    joins = [asyncio.create_task(flight.join()) for _ in range(2)]
    await asyncio.sleep(0)
    joins[0].cancel()
    await asyncio.wait(joins[:1])
    work.release.set()
    assert await joins[1] == 1


async def test_last_joiner_leaving_cancels_the_work() -> None:
    work = Work()
    flight = Flight(work.run())
    join = asyncio.create_task(flight.join())
    await asyncio.sleep(0)
    join.cancel()
    await asyncio.wait([join])
    await flight.stopped()
    assert work.was_cancelled
    assert flight.is_stopped


async def test_stopping_tells_joiners_to_place_again() -> None:
    work = Work()
    flight = Flight(work.run())
    join = asyncio.create_task(flight.join())
    await asyncio.sleep(0)
    await flight.stopped()
    with pytest.raises(ReplicaGoneError):
        await join


async def test_work_stopped_at_once_still_begins_and_cleans_up() -> None:
    work = Work()
    await Flight(work.run()).stopped()
    assert work.was_cancelled


async def test_failure_reaches_every_joiner() -> None:
    async def fail() -> None:
        raise ModelLoadError("broken")

    flight = Flight(fail())
    results = await asyncio.gather(flight.join(), flight.join(), return_exceptions=True)
    assert [type(result) for result in results] == [ModelLoadError, ModelLoadError]
