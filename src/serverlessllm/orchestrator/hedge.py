# SPDX-License-Identifier: Apache-2.0
"""A second load of the same model elsewhere, when the first one would miss the deadline of a first token.

Whichever is ready first is used; the other is cancelled and undone: no replica of it stays, nothing is pinned for it.
Knows not how a load is made, nor where: `waker.py` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from serverlessllm.errors import SllmError
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.placement.decide import Decision
from serverlessllm.orchestrator.placements import Placements
from serverlessllm.orchestrator.replicas import ReplicaTable
from serverlessllm.telemetry.metrics import OrchestratorMetrics
from serverlessllm.wire.agent import UnloadRequest

log = logging.getLogger(__name__)

LOOK_S: Final = 0.05
T = TypeVar("T")


@dataclass(slots=True)
class LoadTry:
    """One load at one agent; `attempt` is known once it was claimed."""

    model: str
    revision: str
    link: AgentLink
    decision: Decision
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Urgency:
    """`is_late()`: whether what runs would miss its deadline; `elsewhere()`: another agent to try, None: none."""

    is_late: Callable[[], bool]
    elsewhere: Callable[[], LoadTry | None]


class Hedge(Generic[T]):
    """`run` loads; `flush` waits until what lost is undone."""

    def __init__(self, placements: Placements, table: ReplicaTable, metrics: OrchestratorMetrics) -> None:
        self._placements = placements
        self._table = table
        self._metrics = metrics
        self._undoing: set[asyncio.Task[None]] = set()

    async def run(self, load: Callable[[LoadTry], Awaitable[T]], first: LoadTry, urgency: Urgency) -> T:
        """The result of the first load that succeeds. Raises what the first load raised when none did."""
        main = asyncio.ensure_future(load(first))
        running: dict[asyncio.Future[T], LoadTry] = {main: first}
        winner: LoadTry | None = None
        try:
            while not main.done() and not urgency.is_late():
                await asyncio.wait({main}, timeout=LOOK_S)
            second = None if main.done() else urgency.elsewhere()
            if second is None:
                return await main
            log.info("%s is late on %s; also on %s", first.model, first.link.agent_id, second.link.agent_id)
            running[asyncio.ensure_future(load(second))] = second
            done = await _first_ready(set(running)) or main
            result = await done
            winner = running.pop(done)
            self._metrics.hedges.labels("second" if winner is second else "first").inc()
            return result
        finally:
            await self._end(running, winner)

    async def flush(self) -> None:
        """Wait until every loser is undone."""
        while self._undoing:
            await asyncio.wait(set(self._undoing))

    async def _end(self, losers: dict[asyncio.Future[T], LoadTry], winner: LoadTry | None) -> None:
        """Cancel what still runs. Where there was a second load, undo what lost, in the background."""
        for future in losers:
            future.cancel()
        is_hedged = len(losers) > 1 or winner is not None
        if not is_hedged:
            await asyncio.wait(set(losers))
            return
        for future, loser in losers.items():
            task = asyncio.create_task(self._undo(future, loser, winner))
            self._undoing.add(task)
            task.add_done_callback(self._undoing.discard)

    async def _undo(self, future: asyncio.Future[T], loser: LoadTry, winner: LoadTry | None) -> None:
        await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # looked at: it lost
        if not loser.attempt:
            return
        for replica in self._table.of(loser.model):
            if replica.link is loser.link and replica.attempt <= loser.attempt:
                self._table.drop(replica)
        try:
            await loser.link.client.unload(
                UnloadRequest(model=loser.model, revision=loser.revision, attempt=loser.attempt)
            )
            await self._placements.flush()
            await self._placements.release(loser.model, loser.attempt)
            if winner is not None and winner.attempt < loser.attempt:
                await self._placements.adopt(
                    winner.model, winner.revision, winner.link.agent_id, winner.attempt
                )
        except SllmError as error:
            log.warning("undoing %s on %s: %s", loser.model, loser.link.agent_id, error.message)


async def _first_ready(futures: set[asyncio.Future[T]]) -> asyncio.Future[T] | None:
    """The first that succeeds; None when none does."""
    while futures:
        done, futures = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            if not future.cancelled() and future.exception() is None:
                return future
    return None
