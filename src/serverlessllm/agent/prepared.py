# SPDX-License-Identifier: Apache-2.0
"""A request that is prepared here while it runs on another agent, and goes on here once it is told to.

    seated   `take`, any number    ids reach the engine, which computes them; text is brought to where the reader is
             `go`                  `pieces` are those that follow
             `close`               seat and engine are free again

What its answers need (detokenizer, stop strings, calls) are functions of the ids, so those that the reader has are
pushed through them as they come; ids whose text is held back follow when it goes. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Final

from serverlessllm.agent.answer import Piece
from serverlessllm.agent.continuation import Continuation
from serverlessllm.agent.inference import Inference
from serverlessllm.agent.progress import ChoiceProgress, num_characters
from serverlessllm.agent.tooling import Tooling
from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slot_standby import SlotStandby
from serverlessllm.errors import CannotResumeError, MigrationRefusedError
from serverlessllm.text.tokenizer import AlignedPrompt
from serverlessllm.wire.migrate import StandbyChoice, StandbyRound
from serverlessllm.wire.resume import ResumedChoice, ResumeHead
from serverlessllm.wire.worker import Generate, TokenEvent

SEAT_WAIT_S: Final = 10.0
"""A destination that has no seat for so long is full."""
_REPLAY_INLINE_IDS: Final = 64


class PreparedInference(Inference):
    """`seat`, then `take` and `go`; then it is an `Inference` whose `pieces` go on. `close` wherever it is."""

    _slot: Slot
    _generated: Generate

    async def seat(self, first: StandbyRound) -> None:
        """Take a seat at the replica, and know the prompt. Raises as `Inference.pieces`; MigrationRefusedError."""
        text = self._replica.text
        if len(first.choices) != self.request.num_choices or not first.prompt_ids:
            raise MigrationRefusedError(
                f"{len(first.choices)} choices and {len(first.prompt_ids)} prompt ids do not fit the request",
                source="agent",
            )
        tooling = Tooling(self.request, text)
        self.prompt_ids = list(first.prompt_ids)
        self._generated = self._generate(text, tooling.grammar)
        self._stack = AsyncExitStack()
        self._standby: SlotStandby | None = None
        self._answers = [self._answer(text, choice, tooling) for choice in range(self.request.num_choices)]
        self._ended: set[int] = set()
        self._told: list[Piece] = []
        self._told_characters = [0] * len(self._answers)
        deadline_s = self._clock.monotonic_s() + SEAT_WAIT_S
        try:
            self._slot = await self._stack.enter_async_context(
                self._replica.turn(self.headers.priority, deadline_s)
            )
            if self._generated.grammar:
                self._slot.teach(await text.spellings())
            if self.headers.adapter:
                await self._replica.load_adapter(
                    self._slot, self.headers.adapter, Path(self.headers.adapter_artifact)
                )
        except BaseException:
            await self.close()
            raise

    @property
    def slot(self) -> Slot:
        """Where it is seated."""
        return self._slot

    @property
    def cached_tokens(self) -> int:
        """Ids that the engine found."""
        return 0 if self._standby is None else self._standby.cached_tokens

    @property
    def known_tokens(self) -> int:
        """Ids so far, prompts included."""
        return 0 if self._standby is None else self._standby.num_tokens

    async def take(self, sent: StandbyRound) -> None:
        """Ids that were sampled meanwhile; returns when they are computed.

        Raises: MigrationRefusedError for a round that leaves a gap; CannotResumeError; the engine's own error.
        """
        await self._take(sent)
        if self._standby is not None:
            await self._standby.caught_up()

    async def go(self, last: StandbyRound) -> None:
        """The last ids: from here on it runs here. Raises as `take`, without waiting for anything."""
        await self._take(last)
        for index, choice in enumerate(last.choices):
            if choice.num_characters != self._told_characters[index]:
                raise CannotResumeError(
                    f"choice {index}: its reader has {choice.num_characters} characters, of which "
                    f"{self._told_characters[index]} come out here",
                    source="agent",
                )
        delivered = [
            ResumedChoice(
                progress.token_ids[: progress.num_delivered], progress.num_characters, progress.finish
            )
            for progress in self.progress
        ]
        head = ResumeHead(seq=last.seq, prompt_ids=self.prompt_ids, choices=delivered)
        self.continued = Continuation(head, len(self._answers))
        self.continued.told = self._told if len(self._answers) == 1 else []
        self.num_tokens, self._seq = head.num_tokens, head.seq
        if self._standby is None or not self._ended < set(range(len(self._answers))):
            raise MigrationRefusedError("nothing is left to generate", source="agent")
        self._events = self._standby.go(self._ended)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """What follows; see `Inference.pieces`."""
        queued_s = self._clock.monotonic_s()
        async with self._stack:
            cached = self._follow_cache(AlignedPrompt(self.prompt_ids))
            for piece in self._held_back():
                yield piece
            queue_ms = (self._clock.monotonic_s() - queued_s) * 1e3
            async with aclosing(self._sampled(self._events, self._answers, self._ended, queue_ms)) as pieces:
                async for piece in pieces:
                    if cached is not None:
                        cached.push(piece)
                    yield piece

    async def close(self) -> None:
        """Give seat and engine back, unless it runs. Idempotent."""
        if self._standby is not None:
            self._standby.close()
        await self._stack.aclose()

    def _held_back(self) -> list[Piece]:
        """Push ids whose text is held back; a piece comes out only where this agent holds less back."""
        pieces = []
        for index, progress in enumerate(self.progress):
            held = progress.token_ids[progress.num_delivered :]
            del progress.token_ids[progress.num_delivered :]
            for token_id in held:
                self.num_tokens += 1
                piece = self._push(self._answers[index], TokenEvent("", token_id, index))
                if piece is not None:
                    pieces.append(piece)
        return pieces

    async def _take(self, sent: StandbyRound) -> None:
        if len(sent.choices) != len(self._answers):
            raise MigrationRefusedError("a round has other choices than the first", source="agent")
        news = [
            self._news(progress, choice) for progress, choice in zip(self.progress, sent.choices, strict=True)
        ]
        num_new = sum(len(ids) for ids in news)
        if num_new > _REPLAY_INLINE_IDS:
            async with self._encoding:
                await asyncio.to_thread(self._replay, sent)
        else:
            self._replay(sent)
        self._tell_engine(sent, news)

    def _news(self, progress: ChoiceProgress, choice: StandbyChoice) -> list[int]:
        """The ids that are new; those of a repeated round are known. Raises MigrationRefusedError for a gap."""
        known = len(progress.token_ids)
        if choice.start > known:
            raise MigrationRefusedError(
                f"a round begins at id {choice.start}, {known} are known", source="agent"
            )
        news = choice.token_ids[known - choice.start :]
        progress.token_ids += news
        return news

    def _replay(self, sent: StandbyRound) -> None:
        """Bring the answers to where the reader is. Raises CannotResumeError."""
        for index, (progress, choice) in enumerate(zip(self.progress, sent.choices, strict=True)):
            if choice.num_delivered > len(progress.token_ids):
                raise MigrationRefusedError("more ids are delivered than were sent", source="agent")
            if choice.finish is not None:
                progress.finish = choice.finish
                progress.num_delivered, progress.num_characters = choice.num_delivered, choice.num_characters
                self._told_characters[index] = choice.num_characters
                continue
            new = progress.token_ids[progress.num_delivered : choice.num_delivered]
            pieces = self._answers[index].replay(new)
            if any(piece.finish is not None for piece in pieces):
                raise CannotResumeError(f"choice {index}: its text ends here, but went on", source="agent")
            progress.num_delivered = max(progress.num_delivered, choice.num_delivered)
            self._told_characters[index] += sum(num_characters(piece) for piece in pieces)
            progress.num_characters = self._told_characters[index]
            self._told += pieces

    def _tell_engine(self, sent: StandbyRound, news: list[list[int]]) -> None:
        for index, choice in enumerate(sent.choices):
            if choice.finish is not None:
                self._ended.add(index)
        running = {i: p.token_ids for i, p in enumerate(self.progress) if i not in self._ended}
        if self._standby is None:
            if not running:
                raise MigrationRefusedError("nothing is left to generate", source="agent")
            self._standby = self._slot.stand_by(self._generated, running)
            return
        for index in self._ended:
            self._standby.drop(index)
        for index in running:
            self._standby.extend(index, news[index])
