# SPDX-License-Identifier: Apache-2.0
"""What must be left of a storm once it is over: nothing but idle processes that know of each other."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from chaos.harness.agent_watch import AgentWatch
from chaos.harness.parts import RUN_VARIABLE, SECRET, Parts, ServerPart
from chaos.harness.record_history import RecordHistory
from serverlessllm.sdk.agent import AgentClient
from serverlessllm.sdk.orchestrator import AsyncClient
from serverlessllm.wire.agent import AgentStatus

PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.1


async def check_settled(parts: Parts, history: RecordHistory) -> None:
    """All agents alive everywhere; after the keep-alive no request, seat, slot, pin, load or placement record."""
    for front in parts.orchestrators:
        await _until(partial(_front_problem, front, len(parts.agents)))
    for agent in parts.agents:
        await _until(partial(_agent_problem, agent))
    await _until(partial(_record_problem, history))


def check_loads(watches: Sequence[AgentWatch]) -> None:
    """Every claim was loaded once at most, over all agents."""
    counts = Counter((load.model, load.attempt) for watch in watches for load in watch.loads)
    doubled = [load for watch in watches for load in watch.loads if counts[load.model, load.attempt] > 1]
    assert not doubled, f"one claim, several loads: {doubled}"


def processes_of(run: str) -> list[str]:
    """Command lines of the processes that carry the run's name in their environment."""
    marker, found = f"{RUN_VARIABLE}={run}".encode(), list[str]()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (path / "environ").read_bytes().split(b"\0"):
                found.append(
                    f"{path.name}: {(path / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()}"
                )
        except OSError:
            continue  # it ended meanwhile
    return found


async def check_no_process(run: str) -> None:
    """Nothing of the run is left; the kernel may take a moment."""

    async def problem() -> str:
        return ", ".join(processes_of(run))

    await _until(problem)


async def _until(problem: Callable[[], Awaitable[str]]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while text := await problem():
        assert time.monotonic() < deadline_s, text
        await asyncio.sleep(_POLL_S)


async def _front_problem(front: ServerPart, num_agents: int) -> str:
    async with AsyncClient(front.url) as client:
        views = [view for view in await client.agents() if view.is_alive]
        if len(views) != num_agents:
            return f"{front.name} knows {len(views)} living agents of {num_agents}"
        open_ones = [view for view in await client.requests(1000) if view.state in ("held", "running")]
    return f"{front.name} has open requests: {open_ones}" if open_ones else ""


async def _agent_problem(agent: ServerPart) -> str:
    client = AgentClient(agent.url, SECRET)
    try:
        status: AgentStatus = await client.status()
    finally:
        await client.aclose()
    pinned = [region.revision for region in status.regions if region.is_pinned]
    incomplete = [region.revision for region in status.regions if not region.is_complete]
    bound = status.slots.get("simulated.bound", 0)
    if status.replicas or status.loads or pinned or incomplete or bound:
        shown = msgspec.json.encode([status.replicas, status.loads]).decode()
        return f"{agent.name} has {shown}, pins {pinned}, unfinished {incomplete}, {bound} bound slots"
    return ""


async def _record_problem(history: RecordHistory) -> str:
    records = await history.now()
    return f"placement records are left: {records}" if records else ""
