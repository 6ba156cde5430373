# SPDX-License-Identifier: Apache-2.0
"""The signal that something changed."""

from __future__ import annotations

import asyncio

from serverlessllm.orchestrator.changes import Changes


async def test_all_waiters_are_woken() -> None:
    changes = Changes()
    waiters = [asyncio.create_task(changes.wait(30)) for _ in range(3)]
    await asyncio.sleep(0)
    changes.notify()
    assert await asyncio.gather(*waiters) == [True] * 3


async def test_change_before_the_wait_is_not_remembered() -> None:
    changes = Changes()
    changes.notify()
    assert await changes.wait(0) is False
