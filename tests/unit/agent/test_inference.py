# SPDX-License-Identifier: Apache-2.0
"""How many tokens a request may generate."""

from __future__ import annotations

import pytest

from serverlessllm.agent.inference import max_tokens
from serverlessllm.errors import ContextLengthError
from serverlessllm.wire.messages import Message
from serverlessllm.wire.openai import ChatRequest, CompletionRequest


def chat(limit: int | None = None, completion_limit: int | None = None) -> ChatRequest:
    return ChatRequest(
        model="m",
        messages=[Message(role="user", content="x")],
        max_tokens=limit,
        max_completion_tokens=completion_limit,
    )


@pytest.mark.parametrize(
    ("request_", "num_prompt_tokens", "allowed"),
    [
        (chat(), 10, 90),
        (chat(), 99, 1),
        (chat(limit=5), 10, 5),
        (chat(limit=5, completion_limit=7), 10, 7),
        (CompletionRequest(model="m", prompt="x"), 10, 16),
        (CompletionRequest(model="m", prompt="x"), 95, 5),
        (CompletionRequest(model="m", prompt="x", max_tokens=5), 95, 5),
    ],
)
def test_limit_is_what_was_asked_for_or_what_fits(
    request_: ChatRequest | CompletionRequest, num_prompt_tokens: int, allowed: int
) -> None:
    assert max_tokens(request_, num_prompt_tokens, 100) == allowed


@pytest.mark.parametrize(
    ("request_", "num_prompt_tokens", "param"),
    [
        (chat(), 100, "messages"),
        (CompletionRequest(model="m", prompt="x"), 120, "prompt"),
        (chat(limit=91), 10, "max_tokens"),
        (CompletionRequest(model="m", prompt="x", max_tokens=6), 95, "max_tokens"),
    ],
)
def test_what_does_not_fit_is_refused_naming_the_field(
    request_: ChatRequest | CompletionRequest, num_prompt_tokens: int, param: str
) -> None:
    with pytest.raises(ContextLengthError) as caught:
        max_tokens(request_, num_prompt_tokens, 100)
    assert caught.value.param == param
