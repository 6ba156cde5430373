# SPDX-License-Identifier: Apache-2.0
"""The moves away from this agent: at most one of a request at a time, each remembered for who asks again.

Knows which destinations it talked to, and how fast they were. `source_move.py` does the moving.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from serverlessllm.agent.block_copy import BlockCopy
from serverlessllm.agent.running_answer import RunningAnswer
from serverlessllm.agent.running_answers import RunningAnswers
from serverlessllm.agent.source_move import SourceMove
from serverlessllm.errors import ConflictError, MigrationRefusedError
from serverlessllm.migration.cost import PRIOR_BYTES_PER_S, PRIOR_TOKEN_S, ObservedRate
from serverlessllm.sdk.standby import StandbyClient
from serverlessllm.sdk.tls import ClientTls
from serverlessllm.telemetry.metrics import AgentMetrics
from serverlessllm.wire.agent import InferHeaders
from serverlessllm.wire.migrate import MigrateRequest, MigrateResult
from serverlessllm.wire.run_name import RunName

MAX_REMEMBERED: Final = 1024


class Migrations:
    """For one event loop."""

    def __init__(
        self,
        answers: RunningAnswers,
        agent_id: str,
        secret: str,
        metrics: AgentMetrics,
        tls: ClientTls | None = None,
        on_settled: Callable[[InferHeaders, MigrateResult], None] | None = None,
    ) -> None:
        """`on_settled` hears how each move of a request ended."""
        self._answers = answers
        self._agent_id = agent_id
        self._secret = secret
        self._metrics = metrics
        self._tls = tls
        self._on_settled = on_settled
        self._clients: dict[str, StandbyClient] = {}
        self._links: dict[str, ObservedRate] = {}
        self._speeds: dict[tuple[str, str], ObservedRate] = {}
        self._moves: dict[RunningAnswer, SourceMove] = {}
        self._tasks: OrderedDict[str, asyncio.Task[MigrateResult]] = OrderedDict()
        self._drops: set[asyncio.Task[None]] = set()

    async def move(self, asked: MigrateRequest) -> MigrateResult:
        """Move a stream; returns when it is settled. The same `move_id` again joins the move, or gets its result.

        The caller's leaving does not stop it. Raises: NotFoundError, ConflictError while another move of the request
        is under way, MigrationRefusedError for a move to this agent.
        """
        known = self._tasks.get(asked.move_id)
        if known is None:
            known = self._start(asked)
        return await asyncio.shield(known)

    def reclaim(self, answer: RunningAnswer) -> None:
        """A reader attached to an answer here."""
        move = self._moves.get(answer)
        if move is not None:
            move.reclaim()

    async def stop(self) -> None:
        """End all moves that are under way: what they move stays."""
        for task in [*self._tasks.values(), *self._drops]:
            task.cancel()
        await asyncio.gather(*self._tasks.values(), *self._drops, return_exceptions=True)
        for client in self._clients.values():
            await client.aclose()

    def _start(self, asked: MigrateRequest) -> asyncio.Task[MigrateResult]:
        answer = self._answers.find(RunName(asked.tenant, asked.request_id, asked.seed))
        if asked.dest_agent == self._agent_id:
            raise MigrationRefusedError("the request runs here already; name another node", source="agent")
        if answer in self._moves:
            raise ConflictError(f"request {asked.request_id} is being moved already", source="agent")
        client = self._client(asked.dest_address)
        link = self._links.setdefault(asked.dest_address, ObservedRate(1 / PRIOR_BYTES_PER_S))
        speed = self._speeds.setdefault(
            (asked.dest_address, answer.headers.revision), ObservedRate(PRIOR_TOKEN_S)
        )
        copy = BlockCopy(client, asked.move_id, asked.mode, speed.seconds_per_unit, link)
        move = self._moves[answer] = SourceMove(asked, answer, client, copy)
        task = asyncio.create_task(self._run(move, speed), name=f"move {asked.request_id}")
        self._tasks[asked.move_id] = task
        if len(self._tasks) > MAX_REMEMBERED:
            oldest = next(iter(self._tasks))
            if self._tasks[oldest].done():
                del self._tasks[oldest]
        return task

    async def _run(self, move: SourceMove, speed: ObservedRate) -> MigrateResult:
        self._metrics.moving.inc()
        try:
            result = await move.run()
        except BaseException:
            move.release()
            self._forget(move)
            raise
        finally:
            self._metrics.moving.dec()
        self._note(move, result, speed)
        if result.state == "moved":
            drop = asyncio.create_task(self._drop(move))
            self._drops.add(drop)
            drop.add_done_callback(self._drops.discard)
        elif result.state != "unknown" or move.answer.is_ended:
            self._forget(move)
        return result

    async def _drop(self, move: SourceMove) -> None:
        try:
            if await move.reader_left():
                await self._answers.drop(move.answer)
        finally:
            self._forget(move)

    def _forget(self, move: SourceMove) -> None:
        if self._moves.get(move.answer) is move:
            del self._moves[move.answer]

    def _note(self, move: SourceMove, result: MigrateResult, speed: ObservedRate) -> None:
        if self._on_settled is not None:
            self._on_settled(move.answer.headers, result)
        metrics, reason = self._metrics, move.asked.reason
        metrics.migrations.labels(reason, result.mode, result.state).inc()
        metrics.migration_rounds.inc(result.num_rounds)
        metrics.migrated_tokens.inc(result.num_ids)
        metrics.migration_copied_bytes.inc(result.copied_bytes)
        metrics.migration_prepare_seconds.observe(result.prepare_ms / 1e3)
        if not result.copied_bytes and result.state == "moved":
            speed.note(result.num_tokens - result.cached_tokens, result.prepare_ms / 1e3)

    def _client(self, address: str) -> StandbyClient:
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = StandbyClient(address, self._secret, self._tls)
        return client
