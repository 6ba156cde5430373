# SPDX-License-Identifier: Apache-2.0
"""One request at one replica: from the client's body to pieces of the answer.

Text becomes ids before the request waits for its turn, so that a bad one fails at once and a seat is never held for
it. Knows no HTTP: `stream.py` frames the pieces.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3

from serverlessllm.agent.answer import Answer, Piece
from serverlessllm.agent.chat_prompt import template_messages, template_tools
from serverlessllm.agent.continuation import Continuation
from serverlessllm.agent.kv_request import KvRequest
from serverlessllm.agent.progress import ChoiceProgress
from serverlessllm.agent.queue import NO_DEADLINE_S
from serverlessllm.agent.replica import Replica
from serverlessllm.agent.tooling import Tooling
from serverlessllm.clock import Clock
from serverlessllm.errors import ContextLengthError, HoldDeadlineError, InvalidRequestError
from serverlessllm.text.stop_strings import StopStrings
from serverlessllm.text.tokenizer import AlignedPrompt, TextModel
from serverlessllm.types import adapter_salt
from serverlessllm.wire import openai
from serverlessllm.wire.agent import InferHeaders, InferTiming
from serverlessllm.wire.openai import ChatRequest, CompletionRequest, PromptTokensDetails, TextEndpoint, Usage
from serverlessllm.wire.resume import ResumeHead
from serverlessllm.wire.worker import Generate, TokenEvent

HOLD_WAIT_S: Final = 0.5
"""An id that takes longer is not waited for."""


class Inference:
    """`pieces` once, inside `within_deadline`. `timing` is there with the first piece, `usage` after the last.

    `began_s` and `first_token_s` are Unix time.
    """

    def __init__(
        self,
        headers: InferHeaders,
        body: bytes,
        replica: Replica,
        clock: Clock,
        encoding: asyncio.Semaphore,
        resumed: ResumeHead | None = None,
    ) -> None:
        """`encoding` bounds how many prompts are encoded at once. `resumed`: the answer was begun elsewhere.

        Raises: InvalidRequestError, UnsupportedFieldError naming the field; CannotResumeError.
        """
        self.headers = headers
        self.body = body
        self.endpoint: TextEndpoint = "chat" if headers.endpoint == "chat" else "completions"
        self.request = openai.parse(self.endpoint, body)
        self.prompt_ids: list[int] = []
        self.timing: InferTiming | None = None
        self.continued = None if resumed is None else Continuation(resumed, self.request.num_choices)
        self.num_tokens = 0 if resumed is None else resumed.num_tokens
        self._seq = 0 if resumed is None else resumed.seq
        self.progress = _progress_of(resumed, self.request.num_choices)
        self._may_emit = asyncio.Event()
        self._may_emit.set()
        self._has_sampled = asyncio.Event()
        self._replica = replica
        self.began_s = self.first_token_s = clock.wall_s()
        self._clock = clock
        self._encoding = encoding
        left_s = headers.deadline_ms / 1e3
        self._left_s = left_s if left_s > 0 else None
        self._deadline_s = NO_DEADLINE_S if self._left_s is None else clock.monotonic_s() + left_s

    async def hold(self) -> None:
        """Give out nothing behind the next id; the engine goes on, and what it samples waits here for `release`.

        Behind an id, because whoever goes on from there needs a whole step for the next one: what has passed of ours
        would be lost.
        """
        self._has_sampled.clear()
        try:
            async with asyncio.timeout(HOLD_WAIT_S):
                await self._has_sampled.wait()
        except TimeoutError:
            pass
        self._may_emit.clear()

    def release(self) -> None:
        """Give out again."""
        self._may_emit.set()

    @property
    def replica(self) -> Replica:
        """Where it runs."""
        return self._replica

    @property
    def prompt_digest(self) -> str:
        """32 hex digits of BLAKE3 over the prompt's ids, each a little-endian u32."""
        return blake3(array("I", self.prompt_ids).tobytes()).hexdigest()[:32]

    @property
    def num_sampled(self) -> int:
        """Ids that were sampled here."""
        return self.num_tokens - (0 if self.continued is None else self.continued.head.num_tokens)

    def num_spelled(self, token_ids: Sequence[int]) -> int:
        """Characters of ids, each spelled alone, as offsets of log-probabilities count them; 0 where none are."""
        if self.request.num_logprobs < 0:
            return 0
        token_bytes = self._replica.text.token_bytes
        return sum(len(token_bytes(token_id).decode("utf-8", "replace")) for token_id in token_ids)

    @property
    def last_seq(self) -> int:
        """Of the last piece: ids generated so far, over all choices."""
        return self._seq

    @property
    def usage(self) -> Usage:
        """Counts so far; every sampled id counts, stop ids included."""
        num_prompt = len(self.prompt_ids)
        num_cached = 0 if self.timing is None else min(self.timing.cached_tokens, num_prompt)
        details = PromptTokensDetails(cached_tokens=num_cached)
        return Usage(num_prompt, self.num_tokens, num_prompt + self.num_tokens, details)

    @asynccontextmanager
    async def within_deadline(self) -> AsyncIterator[None]:
        """The request's whole time here. Raises HoldDeadlineError when it is over."""
        try:
            async with asyncio.timeout(self._left_s):
                yield
        except TimeoutError as error:
            raise HoldDeadlineError(
                f"the request's deadline passed after {self.num_tokens} tokens", source="agent"
            ) from error

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The answer, its choices as they come. Close it early (`contextlib.aclosing`) to cancel it wherever it is.

        Raises: ContextLengthError, InvalidRequestError, CannotResumeError before the first piece; ReplicaGoneError,
        QueueFullError, HoldDeadlineError while it waits; WorkerLostError, EngineError at any time.
        """
        text = self.replica.text
        tooling = Tooling(self.request, text)
        prompt = await self._encode(text, tooling)
        self.prompt_ids = prompt.ids
        generate = self._generate(text, tooling.grammar)
        spellings = await text.spellings() if generate.grammar else None
        answers = [self._answer(text, choice, tooling) for choice in range(self.request.num_choices)]
        ended: set[int] = set()
        missing = await self._continue(answers, ended, generate.max_tokens)
        if len(ended) == len(answers):
            for piece in missing:
                yield piece
            return
        queued_s = self._clock.monotonic_s()
        async with self.replica.turn(self.headers.priority, self._deadline_s) as slot:
            queue_ms = (self._clock.monotonic_s() - queued_s) * 1e3
            if spellings is not None:
                slot.teach(spellings)
            if self.headers.adapter:
                directory = Path(self.headers.adapter_artifact)
                await self._replica.load_adapter(slot, self.headers.adapter, directory)
            cached = self._follow_cache(prompt)
            for piece in missing:
                yield piece
            generated = () if self.continued is None else self.continued.generated
            events = slot.generate(generate, len(answers), ended, generated)
            async with aclosing(self._sampled(events, answers, ended, queue_ms)) as pieces:
                async for piece in pieces:
                    if cached is not None:
                        cached.push(piece)
                    yield piece

    def _follow_cache(self, prompt: AlignedPrompt) -> KvRequest | None:
        """What tells of the cached chunks of the prompt, and of the answer from its beginning on."""
        salt = adapter_salt(self.headers.cache_salt, self.headers.adapter)
        cached = self._replica.follow_cache(salt, self.request, prompt)
        if cached is not None and self.continued is not None:
            for piece in self.continued.told:
                cached.push(piece)
        return cached

    async def _sampled(
        self,
        source: AsyncGenerator[TokenEvent, None],
        answers: list[Answer],
        ended: set[int],
        queue_ms: float,
    ) -> AsyncGenerator[Piece, None]:
        """The pieces that the engine's ids make; closed with the generator that reads it."""
        async with aclosing(source) as events:
            async for event in events:
                if not self._may_emit.is_set():
                    await self._may_emit.wait()
                answer = answers[event.choice]
                if event.choice in ended:
                    continue  # sampled before the engine knew of the stop string
                self._note(event, queue_ms)
                piece = self._push(answer, event)
                if piece is not None:
                    yield piece
                if answer.finish is not None:
                    ended.add(event.choice)
                    if len(ended) == len(answers):
                        return

    def _push(self, answer: Answer, event: TokenEvent) -> Piece | None:
        """Give an id to its answer, and note how far that is."""
        progress = self.progress[event.choice]
        progress.token_ids.append(event.token_id)
        # Ids that were held back when a stream was cut are counted in its last seq: catch up, never repeat.
        piece = answer.push(event, max(self.num_tokens, self._seq + 1))
        if piece is not None:
            self._seq = piece.seq
            progress.deliver(piece)
        self._has_sampled.set()
        return piece

    async def _continue(self, answers: list[Answer], ended: set[int], max_tokens: int) -> list[Piece]:
        """Bring a continued answer to where its reader is; returns what he lacks of it, if anything."""
        continued = self.continued
        if continued is None:
            return []
        continued.check_prompt(self.prompt_digest)
        async with self._encoding:
            replayed = await asyncio.to_thread(continued.replay, answers)
        missing = [continued.missing(index, pieces) for index, pieces in replayed.items()]
        ended |= continued.ended
        for index in replayed:
            if answers[index].finish is not None:
                ended.add(index)
            elif len(continued.generated[index]) >= max_tokens:  # a smaller context than where it began
                ended.add(index)
                missing.append(Piece("", [], self._seq, "length", index))
        continued.told = [piece for pieces in replayed.values() for piece in pieces]
        lacking = [piece for piece in missing if piece is not None]
        for piece in lacking:
            self.progress[piece.choice].deliver(piece)
        return lacking

    def _answer(self, text: TextModel, choice: int, tooling: Tooling) -> Answer:
        token_bytes = text.token_bytes if self.request.num_logprobs >= 0 else None
        detokenizer, stops = text.detokenizer(self.prompt_ids), StopStrings(self.request.stops)
        return Answer(detokenizer, stops, choice, token_bytes, tooling.reader())

    async def _encode(self, text: TextModel, tooling: Tooling) -> AlignedPrompt:
        request = self.request
        if self.continued is not None and self.continued.head.prompt_ids:
            return AlignedPrompt(self.continued.head.prompt_ids)
        async with self._encoding:
            if isinstance(request, ChatRequest):
                messages = template_messages(request.messages, tooling.syntax)
                return await text.align_chat_off_loop(messages, template_tools(tooling.use.tools))
            prompt = request.single_prompt
            return AlignedPrompt(prompt) if isinstance(prompt, list) else await text.align_off_loop(prompt)

    def _generate(self, text: TextModel, grammar: str) -> Generate:
        if not self.prompt_ids:
            raise InvalidRequestError(
                "prompt: encodes to no tokens; send at least one character", param="prompt"
            )
        return Generate(
            request_id=self.headers.request_id,
            prompt_ids=self.prompt_ids,
            max_tokens=max_tokens(self.request, len(self.prompt_ids), self.replica.max_model_len_tokens),
            sampling=self.request.sampling(self.headers.seed),
            stop_token_ids=[] if self.request.ignore_eos else list(text.stop_token_ids),
            cache_salt=self.headers.cache_salt,
            logprobs=self.request.num_logprobs,
            grammar=grammar,
            adapter=self.headers.adapter,
            traceparent=self.headers.traceparent,
        )

    def _note(self, event: TokenEvent, queue_ms: float) -> None:
        self.num_tokens += 1
        if self.timing is None:
            self.first_token_s = self._clock.wall_s()
            stream = self.replica.stream
            self.timing = InferTiming(
                queue_ms=queue_ms + event.wait_ms,
                prefill_ms=event.prefill_ms,
                prompt_tokens=len(self.prompt_ids),
                cached_tokens=event.cached_tokens,
                stall_ms=event.stall_ms,
                load=stream.summary() if stream is not None and event.stall_ms > 0 else None,
            )
        elif event.cached_tokens:  # from an engine that learns it late
            self.timing = msgspec.structs.replace(self.timing, cached_tokens=event.cached_tokens)


def _progress_of(resumed: ResumeHead | None, num_choices: int) -> list[ChoiceProgress]:
    if resumed is None:
        return [ChoiceProgress() for _ in range(num_choices)]
    return [
        ChoiceProgress(choice.token_ids, choice.num_characters, choice.finish) for choice in resumed.choices
    ]


def max_tokens(request: ChatRequest | CompletionRequest, num_prompt_tokens: int, context_tokens: int) -> int:
    """How many ids may be generated: what was asked for, else what fits.

    Raises: ContextLengthError if the prompt leaves no room, or less than was explicitly asked for.
    """
    room_tokens = context_tokens - num_prompt_tokens
    if room_tokens < 1:
        raise ContextLengthError(
            f"the prompt has {num_prompt_tokens} tokens, the model's context is {context_tokens} tokens, of which at "
            "least one must be left for the answer; shorten the prompt",
            param="messages" if isinstance(request, ChatRequest) else "prompt",
        )
    is_explicit = request.max_tokens is not None or (
        isinstance(request, ChatRequest) and request.max_completion_tokens is not None
    )
    limit = request.token_limit
    if is_explicit and limit is not None and limit > room_tokens:
        raise ContextLengthError(
            f"the prompt has {num_prompt_tokens} tokens and max_tokens is {limit}, together more than the model's "
            f"context of {context_tokens} tokens; ask for at most {room_tokens}",
            param="max_tokens",
        )
    return room_tokens if limit is None else min(limit, room_tokens)
