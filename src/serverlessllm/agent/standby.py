# SPDX-License-Identifier: Apache-2.0
"""The destination's side of moves: requests that are prepared here, by the id of their move.

    state       a round       go                    abort       a reader      silence of the source, EXPIRE_S
    preparing   → preparing   → live                → aborted   waits         → aborted
    live        → live        → live                → live      → claimed     stays: the reader or the grace decides
    claimed     → claimed     → claimed             → claimed   → claimed     stays
    aborted     refused       refused               → aborted   404           –

A move that ended is remembered for as long, so that a repeated message finds its outcome, and a late one is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from serverlessllm.agent.prepared import PreparedInference
from serverlessllm.agent.running_answers import RunningAnswers
from serverlessllm.errors import MigrationRefusedError, NotFoundError, SllmError
from serverlessllm.migration.ownership import DestinationSide
from serverlessllm.telemetry.metrics import AgentMetrics
from serverlessllm.wire.agent import InferHeaders
from serverlessllm.wire.migrate import StandbyRound, StandbyStatus
from serverlessllm.wire.run_name import RunName

EXPIRE_S: Final = 5.0
"""A source sends its next round at once; one that is silent for so long is dead."""
MAX_STANDBYS: Final = 256
ATTACH_WAIT_S: Final = 5.0
"""How long a reader who comes early waits for the request to go."""


class Standby:
    """One prepared request."""

    def __init__(self, move_id: str, inference: PreparedInference) -> None:
        self.move_id = move_id
        self.inference = inference
        self.side = DestinationSide()
        self.lock = asyncio.Lock()
        self.computed_ms = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.settled = asyncio.Event()
        """It is live, or will never be."""

    @property
    def headers(self) -> InferHeaders:
        """Of the run that it will be."""
        return self.inference.headers

    def status(self) -> StandbyStatus:
        """As the wire says it."""
        inference = self.inference
        can_copy = self.side.state == "preparing" and inference.slot.hello.copies_blocks
        return StandbyStatus(
            move_id=self.move_id,
            state=self.side.state,
            num_tokens=inference.known_tokens,
            cached_tokens=inference.cached_tokens,
            computed_ms=self.computed_ms,
            block_tokens=inference.replica.block_tokens if can_copy else 0,
            dtype=inference.slot.hello.dtype,
        )


class Standbys:
    """For one event loop. `begin` is called with each request that goes; it raises what forbids it."""

    def __init__(
        self,
        answers: RunningAnswers,
        metrics: AgentMetrics,
        begin: Callable[[PreparedInference], object],
    ) -> None:
        self._answers = answers
        self._metrics = metrics
        self._begin = begin
        self._by_id: dict[str, Standby] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self, move_id: str, inference: PreparedInference, first: StandbyRound) -> StandbyStatus:
        """Take a seat for it; the same move again gets its state.

        Raises: MigrationRefusedError, and what forbids the request here.
        """
        known = self._by_id.get(move_id)
        if known is not None:
            return known.status()
        if len(self._by_id) >= MAX_STANDBYS:
            raise MigrationRefusedError(f"{MAX_STANDBYS} moves end here already", source="agent")
        await inference.seat(first)
        if move_id in self._by_id:  # it came twice at once
            await inference.close()
            return self._by_id[move_id].status()
        standby = self._by_id[move_id] = Standby(move_id, inference)
        self._metrics.standbys.set(len(self._by_id))
        self._touch(standby)
        return standby.status()

    async def round(self, move_id: str, sent: StandbyRound) -> StandbyStatus:
        """Take ids, and compute them. Raises: NotFoundError, MigrationRefusedError, the engine's own error."""
        standby = self._preparing(move_id)
        async with standby.lock:
            self._touch(standby)
            started_s = time.perf_counter()
            try:
                await standby.inference.take(sent)
            except SllmError:
                await self._abort(standby)
                raise
            standby.computed_ms = (time.perf_counter() - started_s) * 1e3
            self._touch(standby)
        return standby.status()

    async def go(self, move_id: str, last: StandbyRound) -> StandbyStatus:
        """The request runs here from now on; again: it does already.

        Raises: NotFoundError, MigrationRefusedError, StaleAttemptError; then it never will.
        """
        standby = self._find(move_id)
        async with standby.lock:
            if standby.side.state == "aborted":
                raise MigrationRefusedError("this move was given up", source="agent")
            if standby.side.may_emit:
                return standby.status()
            try:
                await standby.inference.go(last)
                self._begin(standby.inference)
            except SllmError:
                await self._abort(standby)
                raise
            standby.side.on("go")
            standby.settled.set()
            self._touch(standby)
        return standby.status()

    async def put_blocks(self, move_id: str, digests: list[bytes], blocks: list[bytes]) -> int:
        """Keep blocks for the request; how many. Raises as `round`; InvalidRequestError."""
        standby = self._preparing(move_id)
        self._touch(standby)
        return await standby.inference.slot.put_blocks(digests, blocks)

    async def abort(self, move_id: str) -> StandbyStatus:
        """Give it up unless it went; what became of it. Raises NotFoundError for a move that never came."""
        standby = self._find(move_id)
        async with standby.lock:
            await self._abort(standby)
        return standby.status()

    async def live(self, name: RunName) -> None:
        """Wait until a request that is prepared under that name goes, or will not; returns at once where none is."""
        for standby in self._by_id.values():
            headers = standby.headers
            if (headers.tenant, headers.request_id) != (name.tenant, name.request_id):
                continue
            if name.seed in (0, headers.seed) and not standby.settled.is_set():
                try:
                    async with asyncio.timeout(ATTACH_WAIT_S):
                        await standby.settled.wait()
                except TimeoutError:
                    return
                return

    def claimed(self, headers: InferHeaders) -> None:
        """A reader attached to that run."""
        for standby in self._by_id.values():
            if standby.headers == headers and standby.side.may_emit:
                standby.side.on("claim")

    async def stop(self) -> None:
        """Give up all that did not go."""
        for standby in list(self._by_id.values()):
            await self._abort(standby)
            self._forget(standby)

    def _find(self, move_id: str) -> Standby:
        standby = self._by_id.get(move_id)
        if standby is None:
            raise NotFoundError(f"move {move_id[:80]} is not known here", source="agent")
        return standby

    def _preparing(self, move_id: str) -> Standby:
        standby = self._find(move_id)
        if standby.side.state != "preparing":
            raise MigrationRefusedError(f"this move is {standby.side.state}", source="agent")
        return standby

    async def _abort(self, standby: Standby) -> None:
        if standby.side.on("abort") == "aborted":
            standby.settled.set()
            await standby.inference.close()

    def _touch(self, standby: Standby) -> None:
        """The source is heard: count its silence from now."""
        if standby.timer is not None:
            standby.timer.cancel()
        standby.timer = asyncio.get_running_loop().call_later(EXPIRE_S, self._expire, standby)

    def _expire(self, standby: Standby) -> None:
        if standby.lock.locked():
            self._touch(standby)  # it is we who take so long
            return
        task = asyncio.create_task(self._abort(standby))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self._forget(standby)

    def _forget(self, standby: Standby) -> None:
        if standby.timer is not None:
            standby.timer.cancel()
        self._by_id.pop(standby.move_id, None)
        self._metrics.standbys.set(len(self._by_id))
