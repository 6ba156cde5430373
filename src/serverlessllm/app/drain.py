# SPDX-License-Identifier: Apache-2.0
"""The first step of a stop: what runs may finish, for so long as `stop_grace_s` allows. Knows no HTTP and no engine.

A process that was told to stop drains first and closes afterwards. A second SIGTERM or Ctrl-C ends the wait.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Final

from serverlessllm.agent.agent import Agent
from serverlessllm.agent.membership import Membership
from serverlessllm.orchestrator.orchestrator import Orchestrator

LOOK_S: Final = 0.05
"""How often a front looks whether its last request has ended."""

log = logging.getLogger(__name__)


async def drain_agent(agent: Agent, membership: Membership, grace_s: float) -> None:
    """Tell the orchestrators that this node takes nothing new, then let its answers end."""

    async def leave() -> None:
        await membership.say_stopping()
        await agent.drain()

    await _within(leave(), grace_s, lambda: agent.open_answers.num_open)


async def drain_front(orchestrator: Orchestrator, grace_s: float) -> None:
    """Take no new request and let those that are held or answered end."""
    orchestrator.is_stopping = True

    async def wait() -> None:
        while orchestrator.ring.num_live:  # noqa: ASYNC110 - requests end in many places; none tells
            await asyncio.sleep(LOOK_S)

    await _within(wait(), grace_s, lambda: orchestrator.ring.num_live)


async def _within(work: Coroutine[None, None, None], grace_s: float, num_open: Callable[[], int]) -> None:
    """Run `work` until it ends, the time is over, or the process is told to stop once more."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work, name="drain")
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, task.cancel)
    if num_open():
        log.info("letting %d answers end, at most %g s; stop again to cut them", num_open(), grace_s)
    await asyncio.wait({task}, timeout=grace_s)
    if not task.done():
        log.warning("%d answers were cut after %g s (stop_grace_s)", num_open(), grace_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("draining failed: %s", error, exc_info=error)
