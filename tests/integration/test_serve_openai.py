# SPDX-License-Identifier: Apache-2.0
"""The OpenAI package and curl, unchanged, against a running platform."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from support.model_dirs import write_simulated, write_tiny_llama
from support.platform import Platform

USER: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("openai")
    with Platform(home) as running:
        running.add("org/tiny-llama", write_tiny_llama(home / "llama"), engine="torch")
        running.add("slow", write_simulated(home / "slow"), options={"load_s": 1.5, "token_s": 0.002})
        yield running


@pytest.fixture
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def test_chat_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="org/tiny-llama", messages=USER, max_tokens=8, temperature=0
    )
    assert answer.object == "chat.completion"
    assert answer.model == "org/tiny-llama"
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_streamed_chat_says_the_same_as_the_whole_one(client: openai.OpenAI) -> None:
    arguments = {"model": "org/tiny-llama", "messages": USER, "max_tokens": 24, "seed": 7, "temperature": 1.0}
    whole = client.chat.completions.create(**arguments)
    chunks = list(
        client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


@pytest.mark.parametrize("prompt", ["Once upon a time", [5, 6, 7, 8]])
def test_completion_answers(client: openai.OpenAI, prompt: str | list[int]) -> None:
    answer = client.completions.create(model="org/tiny-llama", prompt=prompt, max_tokens=5, temperature=0)
    assert answer.object == "text_completion"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    streamed = client.completions.create(
        model="org/tiny-llama", prompt=prompt, max_tokens=5, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == answer.choices[0].text


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"org/tiny-llama", "slow"}
    assert client.models.retrieve("org/tiny-llama").id == "org/tiny-llama"


def test_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=USER)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 3),
        ("top_p", 0),
        ("max_tokens", 0),
        ("n", 17),
        ("top_logprobs", 2),
        ("stop", ["x"] * 99),
    ],
)
def test_a_bad_field_is_named(client: openai.OpenAI, field: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="slow", messages=USER, **{field: value})
    assert caught.value.param == field


def test_held_stream_with_progress_comments_reaches_the_openai_client(
    platform: Platform, client: openai.OpenAI
) -> None:
    with platform.client() as admin:
        admin.stop_model("slow")
    chunks = list(client.chat.completions.create(model="slow", messages=USER, max_tokens=20, stream=True))
    extras = [chunk.choices[0].model_extra or {} for chunk in chunks]
    assert sum(len(extra["token_ids"]) for extra in extras) == 20
    assert chunks[-1].choices[0].finish_reason == "length"


def test_curl_sees_progress_comments_then_events_then_done(platform: Platform) -> None:
    with platform.client() as admin:
        admin.stop_model("slow")
    body = json.dumps({"model": "slow", "messages": USER, "max_tokens": 3, "stream": True})
    command = [
        "curl",
        "-sN",
        f"{platform.url}/v1/chat/completions",
        "-H",
        "content-type: application/json",
        "-d",
        body,
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert text.startswith(": loading")
    assert "\nid: 3\n" in text
    assert ": timeline {" in text
    assert text.endswith("data: [DONE]\n\n")


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    arguments = {"model": "org/tiny-llama", "messages": USER, "max_tokens": 64, "seed": 3, "temperature": 1.0}
    free = client.chat.completions.create(**arguments).choices[0].message.content
    stop = free[len(free) // 2 : len(free) // 2 + 3]
    answer = client.chat.completions.create(**arguments, stop=[stop])
    assert answer.choices[0].message.content == free[: free.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_n_gives_choices_of_their_own(client: openai.OpenAI) -> None:
    arguments: Any = {"model": "org/tiny-llama", "messages": USER, "max_tokens": 12, "seed": 5, "n": 3}
    whole = client.chat.completions.create(**arguments)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert whole.usage is not None and whole.usage.completion_tokens <= 36
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**arguments, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_stop_string_ends_its_choice_only(client: openai.OpenAI) -> None:
    arguments: Any = {"model": "org/tiny-llama", "messages": USER, "max_tokens": 24, "seed": 5, "n": 3}
    free = [choice.message.content for choice in client.chat.completions.create(**arguments).choices]
    stop = free[1][len(free[1]) // 2 :][:3]
    answer = client.chat.completions.create(**arguments, stop=[stop])
    expected = [text.partition(stop)[0] for text in free]
    assert [choice.message.content for choice in answer.choices] == expected


def test_chat_logprobs_cover_the_text_whole_and_streamed(client: openai.OpenAI) -> None:
    arguments: Any = {"model": "org/tiny-llama", "messages": USER, "max_tokens": 9, "seed": 4}
    whole = client.chat.completions.create(**arguments, logprobs=True, top_logprobs=3)
    content = whole.choices[0].logprobs.content
    data = b"".join(bytes(token.bytes) for token in content)
    assert data.decode("utf-8", "replace").startswith(whole.choices[0].message.content.rstrip("\ufffd"))
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob <= token.top_logprobs[0].logprob <= 0
    chunks = client.chat.completions.create(**arguments, logprobs=True, top_logprobs=3, stream=True)
    streamed = [t for chunk in chunks for c in chunk.choices if c.logprobs for t in c.logprobs.content]
    assert [token.bytes for token in streamed] == [token.bytes for token in content]


def test_completion_logprobs_are_parallel_lists(client: openai.OpenAI) -> None:
    answer: Any = client.completions.create(
        model="org/tiny-llama", prompt="Once upon", max_tokens=5, temperature=0, logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 5
    assert all(len(top) == 2 for top in logprobs.top_logprobs)
    assert logprobs.token_logprobs == [max(top.values()) for top in logprobs.top_logprobs]


def test_repeated_prompt_is_reported_as_cached(client: openai.OpenAI) -> None:
    arguments: Any = {"model": "org/tiny-llama", "prompt": list(range(300, 400)), "max_tokens": 2}
    cached = [client.completions.create(**arguments).usage.prompt_tokens_details for _ in range(2)]
    assert [details.cached_tokens for details in cached] == [0, 96]


def test_a_prompt_beyond_the_context_is_refused_before_it_runs(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="org/tiny-llama", prompt=[5] * 3000, max_tokens=5)
    assert caught.value.code == "context_length_exceeded"


def test_example_checkpoints_are_as_they_were(tmp_path: Path) -> None:
    assert (write_tiny_llama(tmp_path / "a") / "model.safetensors").read_bytes() == (
        write_tiny_llama(tmp_path / "b") / "model.safetensors"
    ).read_bytes()
