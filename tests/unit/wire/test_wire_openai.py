# SPDX-License-Identifier: Apache-2.0
"""OpenAI requests: what is taken, what is refused, and that nothing is ignored in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serverlessllm.errors import InvalidRequestError, UnsupportedFieldError
from serverlessllm.wire.openai import MAX_STOPS, parse, parse_chat, parse_completion

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "Once"}


def chat(**fields: Any) -> bytes:
    return json.dumps(CHAT | fields).encode()


def completion(**fields: Any) -> bytes:
    return json.dumps(COMPLETION | fields).encode()


def test_sampling_takes_openais_defaults() -> None:
    sampling = parse_chat(chat()).sampling(default_seed=7)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (1.0, 1.0, 0, 7)


def test_seed_of_the_body_comes_before_the_minted_one() -> None:
    assert parse_chat(chat(seed=3)).sampling(default_seed=7).seed == 3
    assert parse_chat(chat(seed=-1)).sampling(default_seed=7).seed == 2**64 - 1


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = parse_chat(chat(messages=[{"role": "user", "content": parts}]))
    assert request.messages[0].text == "ab"


def test_newer_token_limit_comes_before_the_older() -> None:
    assert parse_chat(chat(max_tokens=5, max_completion_tokens=9)).token_limit == 9
    assert parse_chat(chat()).token_limit is None
    assert parse_completion(completion()).token_limit == 16


@pytest.mark.parametrize(
    ("prompt", "single"), [("a", "a"), (["a"], "a"), ([1, 2], [1, 2]), ([[1, 2]], [1, 2])]
)
def test_prompt_of_every_form_is_one_prompt(prompt: Any, single: Any) -> None:
    assert parse_completion(completion(prompt=prompt)).single_prompt == single


@pytest.mark.parametrize(
    "fields",
    [
        {"functions": [{"name": "old"}]},
        {"logit_bias": {"5": 1.0}},
        {"reasoning_effort": "high"},
    ],
)
def test_field_that_asks_for_what_we_do_not_have_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedFieldError) as caught:
        parse_chat(chat(**fields))
    assert caught.value.param == next(iter(fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"n": 16},
        {"logprobs": True, "top_logprobs": 20},
        {"tools": []},
        {"tool_choice": "auto"},
        {"logprobs": False},
        {"store": False},
    ],
)
def test_field_that_we_have_or_that_asks_for_nothing_is_taken(fields: dict[str, Any]) -> None:
    assert parse_chat(chat(**fields)).model == "m"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * (MAX_STOPS + 1)}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"model": "a b"}, "model"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_bad_chat_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat(chat(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize("prompt", ["", [], [[]], [-1], [2**31], [1, "a"], [{}]])
def test_bad_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises((InvalidRequestError, UnsupportedFieldError)):
        parse_completion(completion(prompt=prompt))


def test_batch_of_prompts_is_refused_as_unsupported() -> None:
    with pytest.raises(UnsupportedFieldError):
        parse_completion(completion(prompt=["a", "b"]))


def test_missing_field_is_named() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse("chat", b'{"model":"m"}')
    assert caught.value.param == "messages"


@pytest.mark.parametrize(("logprobs", "wanted"), [(None, -1), (0, 0), (5, 5)])
def test_completion_says_how_many_logprobs_it_wants(logprobs: int | None, wanted: int) -> None:
    assert parse_completion(completion(logprobs=logprobs)).num_logprobs == wanted


@pytest.mark.parametrize("logprobs", [-1, 6])
def test_completion_logprobs_out_of_range_are_refused(logprobs: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_completion(completion(logprobs=logprobs))
    assert caught.value.param == "logprobs"


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, -1),
        ({"logprobs": False}, -1),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 3}, 3),
    ],
)
def test_chat_says_how_many_logprobs_it_wants(fields: dict[str, Any], wanted: int) -> None:
    assert parse_chat(chat(**fields)).num_logprobs == wanted
