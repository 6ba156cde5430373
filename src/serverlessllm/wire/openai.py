# SPDX-License-Identifier: Apache-2.0
"""The OpenAI API's requests as we take them: every field typed and bounded, none ignored in silence.

A field that we do not know is 400; one that the API has and we do not implement is 400
`unsupported_parameter` unless it carries the value that means "off".
Knows no model: context length and templates are checked by the agent that has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, Literal

import msgspec

from serverlessllm.errors import InvalidRequestError, UnsupportedFieldError
from serverlessllm.types import check_model_name
from serverlessllm.wire.field_bounds import BOUNDS, NEUTRAL
from serverlessllm.wire.messages import Message, check_messages
from serverlessllm.wire.response_format import ResponseFormat, TextFormat, check_response_format
from serverlessllm.wire.tools import Tool, ToolChoice, ToolUse, check_tools
from serverlessllm.wire.worker import SamplingParams

MAX_STOPS: Final = 16
MAX_STOP_BYTES: Final = 1024
MAX_COMPLETION_LOGPROBS: Final = 5
"""Of a completion, as OpenAI bounds it."""
DEFAULT_COMPLETION_MAX_TOKENS: Final = 16
"""OpenAI's default for `/v1/completions`; chat has none: it runs until a stop or the context's end."""


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`include_usage`: one more chunk with empty choices and the usage, before `[DONE]`."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What chat and completions share. `Any` fields exist only to be refused when they ask for something."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    n: int | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def num_choices(self) -> int:
        """How many answers are asked for."""
        return 1 if self.n is None else self.n

    @property
    def has_grammar(self) -> bool:
        """Whether the answer is held to a format."""
        return not isinstance(self.response_format, TextFormat | None)

    @property
    def is_stream(self) -> bool:
        return bool(self.stream)

    @property
    def include_usage(self) -> bool:
        return self.is_stream and self.stream_options is not None and self.stream_options.include_usage

    @property
    def stops(self) -> list[str]:
        """Stop strings, as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    def sampling(self, default_seed: int) -> SamplingParams:
        """The drawing parameters with OpenAI's defaults; `default_seed` where the caller gave none."""
        return SamplingParams(
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            top_k=max(0, int(_or(self.top_k, 0))),
            min_p=_or(self.min_p, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            seed=default_seed if self.seed is None else self.seed & 0xFFFF_FFFF_FFFF_FFFF,
        )


class ChatRequest(_Request, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    function_call: Any = None
    service_tier: str | None = None
    store: bool | None = None
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    verbosity: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @property
    def tool_use(self) -> ToolUse:
        """What may, or must, be called."""
        return ToolUse.of(self.tools or (), self.tool_choice, self.parallel_tool_calls)

    @property
    def num_logprobs(self) -> int:
        """How many of the most likely tokens come with each one; -1 = no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else -1

    @property
    def has_grammar(self) -> bool:
        """Whether the answer is held to a format, or to calls."""
        return super().has_grammar or self.tool_use.is_held_to_schemas

    @property
    def token_limit(self) -> int | None:
        """How many tokens may be generated; None = until a stop or the context's end."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(_Request, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/completions`. One prompt: text or token ids (a list of one is taken, a batch is refused)."""

    prompt: str | list[str | int | list[int]]
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None

    @property
    def num_logprobs(self) -> int:
        """How many of the most likely tokens come with each one; -1 = no log-probabilities."""
        return -1 if self.logprobs is None else self.logprobs

    @property
    def token_limit(self) -> int | None:
        return DEFAULT_COMPLETION_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def single_prompt(self) -> str | list[int]:
        """The one prompt, empty when the list was. Raises UnsupportedFieldError for a batch."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return prompt
        ids = [token for token in prompt if isinstance(token, int)]
        if len(ids) == len(prompt):
            return ids
        if len(prompt) > 1:
            raise UnsupportedFieldError(
                "prompt: one prompt per request, text or token ids; send the others on their own",
                param="prompt",
            )
        return next((only for only in prompt if not isinstance(only, int)), [])


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


_Reader = tuple[tuple[str, ...], Callable[[object], tuple[object, ...]]]


def _reader(kind: type[ChatRequest | CompletionRequest], rules: Mapping[str, object]) -> _Reader:
    """The kind's fields that `rules` has, and what reads all of them at once, after `model`."""
    known = tuple(name for name in rules if name in kind.__struct_fields__)
    return known, attrgetter("model", *known)


_Readers = Mapping[type[ChatRequest] | type[CompletionRequest], _Reader]
_NEUTRAL_FIELDS: Final[_Readers] = {kind: _reader(kind, NEUTRAL) for kind in (ChatRequest, CompletionRequest)}
_BOUNDED_FIELDS: Final[_Readers] = {kind: _reader(kind, BOUNDS) for kind in (ChatRequest, CompletionRequest)}


def _given(request: ChatRequest | CompletionRequest, readers: _Readers) -> list[str]:
    """The fields with a rule that the request has a value for: mostly none, and this is on the hot path."""
    names, read = readers[type(request)]
    values = read(request)[1:]
    if values.count(None) == len(values):
        return []
    return [name for name, value in zip(names, values, strict=True) if value is not None]


def _check_fields(request: ChatRequest | CompletionRequest) -> None:
    check_model_name(request.model)
    for name in _given(request, _NEUTRAL_FIELDS):
        value, neutral = getattr(request, name), NEUTRAL[name]
        if any(value == off and type(value) is type(off) for off in neutral):
            continue
        raise UnsupportedFieldError(f"{name}: not supported by this server yet; leave it out", param=name)
    for name in _given(request, _BOUNDED_FIELDS):
        value, (low, high) = getattr(request, name), BOUNDS[name]
        if not low <= value <= high:
            raise InvalidRequestError(
                f"{name}: {value} is out of range; must be between {low} and {high}", param=name
            )
    if request.top_p == 0.0:
        raise InvalidRequestError("top_p: must be greater than 0", param="top_p")
    if request.stream_options is not None and not request.is_stream:
        raise InvalidRequestError("stream_options: only with stream: true", param="stream_options")
    check_response_format(request.response_format)
    if request.ignore_eos and request.has_grammar:
        raise InvalidRequestError(
            "ignore_eos: an answer in a format ends where that ends", param="ignore_eos"
        )
    stops = request.stops
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError(f"stop: at most {MAX_STOPS} strings", param="stop")
    if stops and any(not stop or len(stop.encode("utf-8", "replace")) > MAX_STOP_BYTES for stop in stops):
        raise InvalidRequestError(f"stop: strings of 1 to {MAX_STOP_BYTES} bytes", param="stop")


_chat_decoder: Final = msgspec.json.Decoder(ChatRequest)
_completion_decoder: Final = msgspec.json.Decoder(CompletionRequest)
_UNKNOWN: Final = re.compile(r"unknown field `([^`]+)`")
_MISSING: Final = re.compile(r"missing required field `([^`]+)`")
_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`")


def field_error(error: msgspec.MsgspecError) -> InvalidRequestError:
    """Turn msgspec's message into one that names the field as the caller wrote it (`messages[0].content`)."""
    text = str(error)
    path = match[1] if (match := _PATH.search(text)) else ""
    named = _UNKNOWN.search(text) or _MISSING.search(text)
    if named:
        path = f"{path}.{named[1]}" if path else named[1]
    if isinstance(error, msgspec.ValidationError):
        return InvalidRequestError(f"{path or 'body'}: {_PATH.sub('', text)}", param=path or None)
    return InvalidRequestError(f"body: not valid JSON ({text})")


def parse_chat(body: bytes) -> ChatRequest:
    """Decode and check a chat request. Raises InvalidRequestError, UnsupportedFieldError naming the field."""
    try:
        request = _chat_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error
    except RecursionError as error:
        raise InvalidRequestError("body: nested too deeply") from error
    _check_fields(request)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequestError("top_logprobs: only with logprobs: true", param="top_logprobs")
    check_messages(request.messages)
    check_tools(request.tools or (), request.tool_choice)
    return request


def parse_completion(body: bytes) -> CompletionRequest:
    """Decode and check a completion request; raises as `parse_chat`."""
    try:
        request = _completion_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error
    except RecursionError as error:
        raise InvalidRequestError("body: nested too deeply") from error
    _check_fields(request)
    if request.logprobs is not None and not 0 <= request.logprobs <= MAX_COMPLETION_LOGPROBS:
        raise InvalidRequestError(
            f"logprobs: {request.logprobs} is out of range; must be between 0 and {MAX_COMPLETION_LOGPROBS}",
            param="logprobs",
        )
    prompt = request.single_prompt
    if not prompt:
        raise InvalidRequestError("prompt: must not be empty", param="prompt")
    if isinstance(prompt, list) and any(not 0 <= token < 2**31 for token in prompt):
        raise InvalidRequestError("prompt: token ids must be non-negative 32-bit integers", param="prompt")
    return request


Endpoint = Literal["chat", "completions", "embeddings"]
TextEndpoint = Literal["chat", "completions"]
"""Those that generate text."""


def parse(endpoint: TextEndpoint, body: bytes) -> ChatRequest | CompletionRequest:
    """`parse_chat` or `parse_completion`."""
    return parse_chat(body) if endpoint == "chat" else parse_completion(body)


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """`cached_tokens` of the prompt were not computed again."""

    cached_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one answer; `completion_tokens` counts every id sampled over all choices, stop ids included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
