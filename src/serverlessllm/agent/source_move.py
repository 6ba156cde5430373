# SPDX-License-Identifier: Apache-2.0
"""The source's side of one move: rounds to the destination beside the decoding, then the handover.

    preparing      the answer goes on; each round brings the destination what was sampled since the last one
    handing_over   the answer is held (its engine goes on, its ids wait here); the reader is told where it goes on
    moved          the destination runs it; the copy here is dropped once the reader has left
    stayed         the destination certainly does not run it: what waited here goes out
    unknown        no answer: asked again; meanwhile the reader may come back for it (`reclaim`)

Knows no HTTP; `migration/` decides.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from serverlessllm.agent.block_copy import BlockCopy
from serverlessllm.agent.inference import Inference
from serverlessllm.agent.progress import ChoiceProgress
from serverlessllm.agent.running_answer import RunningAnswer
from serverlessllm.errors import MigrationRefusedError, NotFoundError, SllmError, UnreachableError
from serverlessllm.migration.ownership import SourceSide
from serverlessllm.migration.rounds import Rounds
from serverlessllm.sdk.standby import StandbyClient
from serverlessllm.wire.migrate import (
    MigrateRequest,
    MigrateResult,
    MoveOutcome,
    Moving,
    StandbyChoice,
    StandbyRound,
    StandbyStatus,
    moving_comment,
)

BEGIN_WAIT_S: Final = 30.0
"""How long a request that waits for its first id is waited for."""
ASK_AGAIN_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Pauses between questions to a destination that did not answer."""
READER_LEAVES_S: Final = 3.0
LOOK_S: Final = 0.02
MAX_HOLDS: Final = 50


class SourceMove:
    """`run` once. `reclaim` when the reader comes back for the answer."""

    def __init__(
        self, asked: MigrateRequest, answer: RunningAnswer, client: StandbyClient, copy: BlockCopy
    ) -> None:
        self.asked = asked
        self.answer = answer
        self.side = SourceSide()
        self._client = client
        self._copy = copy
        self._rounds = Rounds()
        self._num_sent: list[int] = []
        self._status: StandbyStatus | None = None
        self._began_s = time.perf_counter()
        self._hop = answer.next_hop
        answer.next_hop += 1
        self._prepare_ms = 0.0
        self._handover_ms = 0.0
        self._reclaimed = asyncio.Event()

    def reclaim(self) -> None:
        """The reader attached here again, behind the handover: he has given the destination up."""
        if self.side.state in ("handing_over", "unknown", "moved"):
            self.side.on("reclaim")
            self._reclaimed.set()
            if self.answer.inference is not None:
                self.answer.inference.release()

    async def run(self) -> MigrateResult:
        """Move it. Raises nothing that the destination says: it is in the result."""
        try:
            async with asyncio.timeout(BEGIN_WAIT_S):
                await self.answer.begun()
            await self._prepare()
            if self.answer.inference is not None:
                await self._hold(self.answer.inference)
        except TimeoutError:
            return self._stayed("it waits for its first id")
        except SllmError as error:
            await self._give_up()
            return self._stayed(error.message)
        except asyncio.CancelledError:
            self.release()
            await self._give_up()
            raise
        inference = self.answer.inference
        if inference is None:
            await self._give_up()
            self.side.on("end")
            return self._result("ended")
        return await self._hand_over(inference)

    async def reader_left(self) -> bool:
        """Behind a handover: wait until the reader has left, or should have; whether the copy here is to end."""
        deadline_s = time.perf_counter() + READER_LEAVES_S
        while self.answer.num_readers and not self.answer.is_ended and self.side.state == "moved":
            if time.perf_counter() > deadline_s:
                break
            await asyncio.sleep(LOOK_S)
        return self.side.state == "moved"

    async def _prepare(self) -> None:
        """Rounds until the rest is small. Raises what the destination says; MigrationRefusedError."""
        inference = self._inference()
        self._num_sent = [0] * len(inference.progress)
        headers = msgspec.structs.replace(inference.headers, hop=self._hop)
        first = StandbyRound(
            prompt_ids=inference.prompt_ids, choices=[StandbyChoice() for _ in inference.progress]
        )
        self._status = await self._client.open(self.asked.move_id, headers, first, inference.body)
        await self._copy.run(inference, self._status)
        while True:
            sent = self._round(self._inference())
            self._status = await self._client.round(self.asked.move_id, sent)
            self._note_sent(sent)
            if self.answer.inference is not None:
                await self._copy.run(self.answer.inference, self._status)
            if self.answer.inference is None:
                return  # it has ended, perhaps during the copy
            verdict = self._rounds.next(self._num_left(self.answer.inference))
            if verdict == "give_up":
                raise MigrationRefusedError("the destination computes slower than the source", source="agent")
            if verdict == "hand_over":
                return

    async def _hand_over(self, inference: Inference) -> MigrateResult:
        held_s = time.perf_counter()
        self._prepare_ms = (held_s - self._began_s) * 1e3
        self.side.on("hand_over")
        last = self._round(inference)
        moving = Moving(
            self.asked.dest_agent,
            self.asked.dest_address,
            self._hop,
            inference.last_seq,
            self.asked.move_id,
        )
        self.answer.notify(moving_comment(moving))
        try:
            self._status = await self._client.go(self.asked.move_id, last)
        except UnreachableError as error:
            self.side.on("unanswered")
            return await self._ask_again(error.message, held_s)
        except SllmError as error:
            self.side.on("refused")
            inference.release()
            return self._stayed(error.message)
        self._note_sent(last)
        self._handover_ms = (time.perf_counter() - held_s) * 1e3
        if self.side.on("accepted") == "stayed":
            return self._stayed("its reader came back")
        return self._result("moved")

    async def _ask_again(self, reason: str, held_s: float) -> MigrateResult:
        """Nobody knows whether it runs there: give it up there, unless it does."""
        for pause_s in ASK_AGAIN_S:
            try:
                async with asyncio.timeout(pause_s):
                    await self._reclaimed.wait()
            except TimeoutError:
                pass
            if self.side.state != "unknown":
                return self._stayed(f"its reader came back: {reason}")
            try:
                status = await self._client.abort(self.asked.move_id)
            except NotFoundError:
                status = StandbyStatus(self.asked.move_id, "aborted")
            except SllmError:
                continue
            self._handover_ms = (time.perf_counter() - held_s) * 1e3
            after = self.side.on("refused" if status.state == "aborted" else "accepted")
            if after == "moved":
                return self._result("moved")
            self.release()
            return self._stayed(reason)
        return self._result("unknown", reason)

    async def _hold(self, inference: Inference) -> None:
        """Hold the answer. Log-probabilities of ids whose text is held back do not travel: then between two pieces.

        Raises MigrationRefusedError where there is no such moment.
        """
        for _ in range(MAX_HOLDS):
            await inference.hold()
            if inference.request.num_logprobs < 0 or self.answer.inference is None:
                return
            if all(len(one.token_ids) == one.num_delivered for one in inference.progress):
                return
            inference.release()
        raise MigrationRefusedError("its log-probabilities are held back all the time", source="agent")

    async def _give_up(self) -> None:
        """The destination need not prepare any more; it would notice by itself."""
        try:
            await self._client.abort(self.asked.move_id)
        except SllmError:
            return

    def release(self) -> None:
        """Give out again what waits here."""
        if self.answer.inference is not None:
            self.answer.inference.release()

    def _inference(self) -> Inference:
        inference = self.answer.inference
        if inference is None:
            raise MigrationRefusedError("the answer has ended", source="agent")
        return inference

    def _round(self, inference: Inference) -> StandbyRound:
        choices = [
            _as_choice(progress, start)
            for progress, start in zip(inference.progress, self._num_sent, strict=True)
        ]
        return StandbyRound(seq=inference.last_seq, choices=choices)

    def _note_sent(self, sent: StandbyRound) -> None:
        self._num_sent = [choice.start + len(choice.token_ids) for choice in sent.choices]
        self._rounds.sent(sum(len(choice.token_ids) for choice in sent.choices))

    def _num_left(self, inference: Inference) -> int:
        sampled = sum(len(progress.token_ids) for progress in inference.progress)
        return sampled - sum(self._num_sent)

    def _stayed(self, message: str) -> MigrateResult:
        if not self.side.is_over:
            self.side.on("fail")
        return self._result("stayed", message)

    def _result(self, state: MoveOutcome, message: str = "") -> MigrateResult:
        status = self._status
        return MigrateResult(
            move_id=self.asked.move_id,
            request_id=self.asked.request_id,
            state=state,
            message=message,
            mode="copy" if self._copy.num_blocks else "recompute",
            num_rounds=self._rounds.num_rounds,
            num_ids=self._rounds.num_ids,
            num_tokens=0 if status is None else status.num_tokens,
            cached_tokens=0 if status is None else status.cached_tokens,
            copied_bytes=self._copy.num_bytes,
            prepare_ms=self._prepare_ms,
            handover_ms=self._handover_ms,
        )


def _as_choice(progress: ChoiceProgress, start: int) -> StandbyChoice:
    return StandbyChoice(
        start,
        progress.token_ids[start:],
        progress.num_delivered,
        progress.num_characters,
        progress.finish,
    )
