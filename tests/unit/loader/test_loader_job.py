# SPDX-License-Identifier: Apache-2.0
"""Callers of one load come and go; the load ends with the last."""

from __future__ import annotations

import asyncio

import pytest

from serverlessllm.loader.job import LoadJob
from serverlessllm.loader.report import LoadProgress, LoadReport

REPORT = LoadReport("a" * 32, "nvme", 1, 1.0, 1.0, 1.0, "nvme", 1.0, 1.0)


class Work:
    """A load that ends when it is finished or stopped."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.result: LoadReport | None = REPORT
        self.job = LoadJob()
        self.job.stop_reading = self.stop
        self.job.start(self.run(), "load")

    async def run(self) -> LoadReport | None:
        await self.ended.wait()
        return self.result

    def stop(self) -> None:
        self.result = None
        self.ended.set()


async def join(job: LoadJob) -> asyncio.Task[LoadReport | None]:
    task = asyncio.create_task(job.join(None))
    await asyncio.sleep(0)
    return task


async def test_leaving_caller_does_not_stop_the_load_for_another() -> None:
    work = Work()
    leaver, stayer = await join(work.job), await join(work.job)
    leaver.cancel()
    await asyncio.wait({leaver})
    work.ended.set()
    assert await stayer == REPORT


async def test_last_caller_to_leave_stops_the_load_and_waits_for_its_end() -> None:
    work = Work()
    first, last = await join(work.job), await join(work.job)
    first.cancel()
    last.cancel()
    await asyncio.wait({first, last})
    assert last.cancelled()
    assert work.job.task.done()
    assert work.job.num_waiters == 0


async def test_callers_hear_progress_while_they_wait() -> None:
    work = Work()
    heard: list[LoadProgress] = []
    task = asyncio.create_task(work.job.join(heard.append))
    await asyncio.sleep(0)
    progress = LoadProgress("a" * 32, 1, 2, 0.5)
    work.job.tell(progress)
    work.ended.set()
    await task
    work.job.tell(progress)
    assert heard == [progress]


async def test_job_that_was_not_started_has_no_task() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        _ = LoadJob().task
