# SPDX-License-Identifier: Apache-2.0
"""Tool calls through the OpenAI package, unchanged, against a running platform with random models.

A random model calls only what it must, so calls are enforced, or held to a schema by `strict`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai.lib.streaming.chat import FunctionToolCallArgumentsDoneEvent

from support.model_dirs import write_tiny_llama
from support.platform import Platform
from support.tool_templates import HERMES_TEMPLATE, LLAMA3_TEMPLATE, MISTRAL_TEMPLATE

USER: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
CITY = {"type": "string", "enum": ["Rome", "Bern"]}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
MODELS = {"hermes": HERMES_TEMPLATE, "llama3": LLAMA3_TEMPLATE, "mistral": MISTRAL_TEMPLATE}


class Trip(pydantic.BaseModel):
    """A function as `openai.pydantic_function_tool` makes it: strict."""

    nights: int = pydantic.Field(ge=1, le=5)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("tools")
    with Platform(home) as running:
        for name, template in MODELS.items():
            directory = write_tiny_llama(home / name)
            (directory / "chat_template.jinja").write_text(template)
            running.add(name, directory, engine="torch")
        running.add("plain", write_tiny_llama(home / "plain"), engine="torch")
        yield running


@pytest.fixture
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def check_weather(function: Any) -> None:
    arguments = json.loads(function.arguments)
    assert function.name == "weather"
    assert arguments["city"] in CITY["enum"]
    assert 1 <= arguments["days"] <= 9


@pytest.mark.parametrize("model", MODELS)
def test_required_call_is_made_whole_and_streamed(client: openai.OpenAI, model: str) -> None:
    arguments: Any = {"model": model, "messages": USER, "tools": [WEATHER], "tool_choice": "required"}
    arguments |= {"seed": 3, "parallel_tool_calls": False}
    choice = client.chat.completions.create(**arguments).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    check_weather(call.function)
    with client.chat.completions.stream(**arguments) as stream:
        done = [event for event in stream if isinstance(event, FunctionToolCallArgumentsDoneEvent)]
        final = stream.get_final_completion().choices[0]
    assert [event.arguments for event in done] == [call.function.arguments]
    assert final.finish_reason == "tool_calls"
    assert [made.function.name for made in final.message.tool_calls or []] == ["weather"]


@pytest.mark.parametrize("model", MODELS)
def test_stream_has_deltas_as_openai_sends_them(client: openai.OpenAI, model: str) -> None:
    chunks = client.chat.completions.create(
        model=model, messages=USER, tools=[WEATHER], tool_choice="required", seed=5, stream=True
    )
    deltas = [chunk.choices[0].delta for chunk in chunks]
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    firsts: list[Any] = [call for call in calls if call.id is not None]
    assert len(calls) > len(firsts) >= 1
    assert deltas[0].role == "assistant"
    assert not any(delta.content for delta in deltas)
    assert all(call.type == "function" and call.function.name == "weather" for call in firsts)
    assert [call.index for call in firsts] == list(range(len(firsts)))


def test_named_function_is_called_once_in_every_choice(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="hermes",
        messages=USER,
        tools=[WEATHER, CLOCK],
        tool_choice={"type": "function", "function": {"name": "clock"}},
        n=3,
        seed=1,
    )
    calls: list[Any] = [call for choice in answer.choices for call in choice.message.tool_calls or []]
    assert [(call.type, call.function.name) for call in calls] == [("function", "clock")] * 3
    assert [json.loads(call.function.arguments) for call in calls] == [{}] * 3
    assert len({call.id for call in calls}) == 3


@pytest.mark.parametrize("model", MODELS)
def test_conversation_goes_on_after_a_call(client: openai.OpenAI, model: str) -> None:
    first = client.chat.completions.create(
        model=model, messages=USER, tools=[WEATHER], tool_choice="required", seed=2
    )
    message = first.choices[0].message
    results: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls or []
    ]
    history: Any = [*USER, message, *results]
    answer = client.chat.completions.create(
        model=model, messages=history, tools=[WEATHER], max_tokens=8, tool_choice="none"
    )
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_strict_function_of_a_pydantic_model_is_parsed_by_the_client(client: openai.OpenAI) -> None:
    trip = openai.pydantic_function_tool(Trip)
    answer = client.chat.completions.parse(
        model="hermes", messages=USER, tools=[trip], tool_choice="required", parallel_tool_calls=False, seed=4
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Trip)
    free = client.chat.completions.create(model="hermes", messages=USER, tools=[trip], max_tokens=12, seed=4)
    assert free.choices[0].message.content


def test_logprobs_and_stop_strings_go_with_calls(client: openai.OpenAI) -> None:
    arguments: Any = {"model": "hermes", "messages": USER, "tools": [WEATHER], "tool_choice": "required"}
    whole = client.chat.completions.create(**arguments, seed=3, logprobs=True, parallel_tool_calls=False)
    assert whole.choices[0].logprobs.content
    cut = client.chat.completions.create(**arguments, seed=3, stop='"days')
    (call,) = cut.choices[0].message.tool_calls
    assert '"days' not in call.function.arguments
    assert cut.choices[0].finish_reason == "tool_calls"


def test_model_without_tools_in_its_template_refuses_them(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="plain", messages=USER, tools=[WEATHER])
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported_parameter")
    free = client.chat.completions.create(
        model="plain", messages=USER, tools=[WEATHER], tool_choice="none", max_tokens=2
    )
    assert free.choices[0].message.tool_calls is None


def test_schema_of_an_enforced_function_is_checked(client: openai.OpenAI) -> None:
    bad: Any = {"type": "function", "function": {"name": "f", "parameters": {"not": {"type": "null"}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="hermes", messages=USER, tools=[WEATHER, bad], tool_choice="required"
        )
    assert caught.value.param == "tools[1].function.parameters"
