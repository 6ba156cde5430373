# SPDX-License-Identifier: Apache-2.0
"""Between our messages and vLLM's `/inference/v1/generate`: ids in, ids out. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from serverlessllm.engine.vllm_server.command import MODEL_NAME
from serverlessllm.errors import EngineError
from serverlessllm.types import FinishReason
from serverlessllm.wire.worker import Generate, TokenEvent, TokenLogprobs

_SEED_STEP: Final = 0x9E37_79B9_7F4A_7C15
"""Sets the seeds of a request's choices apart (2^64 over the golden ratio)."""


class _Candidate(msgspec.Struct):
    token_id: int
    logprob: float


class _Sampled(_Candidate):
    top_logprobs: list[_Candidate] = []


class _Logprobs(msgspec.Struct):
    content: list[_Sampled] | None = None


class Choice(msgspec.Struct):
    """New ids of a request since its last chunk."""

    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class Usage(msgspec.Struct):
    """Comes with the last chunk."""

    prompt_tokens_details: _PromptDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were not computed again."""
        return 0 if self.prompt_tokens_details is None else self.prompt_tokens_details.cached_tokens


class Chunk(msgspec.Struct):
    """One event of the stream."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: dict[str, Any] | None = None


def request_body(request: Generate) -> bytes:
    """One choice is one request. Ids sampled before are part of the prompt; only our stop ids end it."""
    sampling = request.sampling
    seed = (sampling.seed + request.choice * _SEED_STEP) & 0x7FFF_FFFF_FFFF_FFFF
    parameters: dict[str, object] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": seed,
        "max_tokens": request.max_tokens - len(request.generated_ids),
        "stop_token_ids": request.stop_token_ids,
        "ignore_eos": True,
        "detokenize": False,
    }
    if request.logprobs >= 0:
        parameters["logprobs"] = request.logprobs
    body: dict[str, object] = {
        "model": MODEL_NAME,
        "token_ids": [*request.prompt_ids, *request.generated_ids],
        "sampling_params": parameters,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.cache_salt:
        body["cache_salt"] = request.cache_salt
    return msgspec.json.encode(body)


class Answer:
    """From chunks to events. The last id waits for the usage that follows it, to carry `cached_tokens`."""

    def __init__(self, request: Generate) -> None:
        self._request = request
        self._last: TokenEvent | None = None
        self._is_first = True

    @property
    def is_finished(self) -> bool:
        """Whether the last id has come."""
        return self._last is not None

    def push(self, chunk: Chunk, prefill_ms: float) -> list[TokenEvent]:
        """The ids of one chunk; `prefill_ms` goes with the first. Raises EngineError for a failure in it."""
        if chunk.error is not None:
            raise EngineError(f"vLLM failed: {chunk.error.get('message', chunk.error)}")
        events: list[TokenEvent] = []
        for choice in chunk.choices:
            events += self._events(choice, prefill_ms)
        if events and events[-1].finish is not None:
            self._last = events.pop()
        return events

    def end(self, usage: Usage | None) -> TokenEvent:
        """The last id. Raises EngineError when the stream ended before it."""
        if self._last is None:
            raise EngineError("vLLM ended a stream before its last id")
        cached = 0 if usage is None else usage.cached_tokens
        return msgspec.structs.replace(self._last, cached_tokens=cached)

    def _events(self, choice: Choice, prefill_ms: float) -> list[TokenEvent]:
        finish = _finish(choice.finish_reason)
        if finish is not None and not choice.token_ids:
            raise EngineError("vLLM ended a stream without a last id")
        content = (choice.logprobs.content if choice.logprobs is not None else None) or []
        events = []
        for index, token_id in enumerate(choice.token_ids):
            is_first, self._is_first = self._is_first, False
            is_last = index == len(choice.token_ids) - 1
            events.append(
                TokenEvent(
                    request_id=self._request.request_id,
                    token_id=token_id,
                    choice=self._request.choice,
                    finish=finish if is_last else None,
                    prefill_ms=prefill_ms if is_first else 0.0,
                    logprobs=self._logprobs(content[index]) if index < len(content) else None,
                )
            )
        return events

    def _logprobs(self, sampled: _Sampled) -> TokenLogprobs:
        """vLLM puts the sampled id first, whatever its rank: ours are the most likely ones, falling."""
        top = sorted(sampled.top_logprobs, key=lambda candidate: -candidate.logprob)[: self._request.logprobs]
        return TokenLogprobs(sampled.logprob, [c.token_id for c in top], [c.logprob for c in top])


def _finish(reason: str | None) -> FinishReason | None:
    match reason:
        case None:
            return None
        case "stop":
            return "stop"
        case "length":
            return "length"
    raise EngineError(f"vLLM ended a request: {reason}")
