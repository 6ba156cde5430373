# SPDX-License-Identifier: Apache-2.0
"""One request at one replica: from the client's body to pieces of the answer.

Text becomes ids before the request waits for its turn, so that a bad one fails at once and a seat is never held for
it. Knows no HTTP: `stream.py` frames the pieces.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
from blake3 import blake3

from serverlessllm.agent.answer import Answer, Piece
from serverlessllm.agent.chat_prompt import template_messages, template_tools
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
from serverlessllm.wire.trace_context import current_header
from serverlessllm.wire.worker import Generate, TokenEvent


class Inference:
    """`pieces` once, inside `within_deadline`. `timing` is there with the first piece, `usage` after the last.

    `began_s` and `first_token_s` are Unix time.
    """

    def __init__(
        self, headers: InferHeaders, body: bytes, replica: Replica, clock: Clock, encoding: asyncio.Semaphore
    ) -> None:
        """`encoding` bounds how many prompts are encoded at once.

        Raises: InvalidRequestError, UnsupportedFieldError naming the field.
        """
        self.headers = headers
        self.endpoint: TextEndpoint = "chat" if headers.endpoint == "chat" else "completions"
        self.request = openai.parse(self.endpoint, body)
        self.prompt_ids: list[int] = []
        self.timing: InferTiming | None = None
        self.num_tokens = 0
        self.replica = replica
        self.began_s = self.first_token_s = clock.wall_s()
        self._clock = clock
        self._encoding = encoding
        left_s = headers.deadline_ms / 1e3
        self._left_s = left_s if left_s > 0 else None
        self._deadline_s = NO_DEADLINE_S if self._left_s is None else clock.monotonic_s() + left_s

    @property
    def prompt_digest(self) -> str:
        """32 hex digits of BLAKE3 over the prompt's ids, each a little-endian u32."""
        return blake3(array("I", self.prompt_ids).tobytes()).hexdigest()[:32]

    @property
    def usage(self) -> Usage:
        """Counts so far; every sampled id counts, stop ids included."""
        num_prompt = len(self.prompt_ids)
        num_cached = 0 if self.timing is None else self.timing.cached_tokens
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

        Raises: ContextLengthError, InvalidRequestError before the first piece; ReplicaGoneError, QueueFullError,
        HoldDeadlineError while it waits; WorkerLostError, EngineError at any time.
        """
        text = self.replica.text
        tooling = Tooling(self.request, text)
        prompt = await self._encode(text, tooling)
        self.prompt_ids = prompt.ids
        generate = self._generate(text, tooling.grammar)
        spellings = await text.spellings() if generate.grammar else None
        answers = [self._answer(text, choice, tooling) for choice in range(self.request.num_choices)]
        ended: set[int] = set()
        queued_s = self._clock.monotonic_s()
        async with self.replica.turn(self.headers.priority, self._deadline_s) as slot:
            queue_ms = (self._clock.monotonic_s() - queued_s) * 1e3
            if spellings is not None:
                slot.teach(spellings)
            if self.headers.adapter:
                directory = Path(self.headers.adapter_artifact)
                await self.replica.load_adapter(slot, self.headers.adapter, directory)
            salt = adapter_salt(self.headers.cache_salt, self.headers.adapter)
            cached = self.replica.follow_cache(salt, self.request, prompt)
            async with aclosing(slot.generate(generate, len(answers), ended)) as events:
                async for event in events:
                    answer = answers[event.choice]
                    if event.choice in ended:
                        continue  # sampled before the engine knew of the stop string
                    self._note(event, queue_ms)
                    piece = answer.push(event, self.num_tokens)
                    if piece is not None:
                        if cached is not None:
                            cached.push(piece)
                        yield piece
                    if answer.finish is not None:
                        ended.add(event.choice)
                        if len(ended) == len(answers):
                            return

    def _answer(self, text: TextModel, choice: int, tooling: Tooling) -> Answer:
        token_bytes = text.token_bytes if self.request.num_logprobs >= 0 else None
        detokenizer, stops = text.detokenizer(self.prompt_ids), StopStrings(self.request.stops)
        return Answer(detokenizer, stops, choice, token_bytes, tooling.reader())

    async def _encode(self, text: TextModel, tooling: Tooling) -> AlignedPrompt:
        request = self.request
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
            traceparent=current_header(),
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
