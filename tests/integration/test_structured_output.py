# SPDX-License-Identifier: Apache-2.0
"""`response_format` through the OpenAI package, against a running platform with a random model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest

from support.model_dirs import write_simulated, write_tiny_llama
from support.platform import Platform

USER: Any = [{"role": "user", "content": "Where shall we go?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "nights": {"type": "integer", "minimum": 1, "maximum": 14},
        "by": {"enum": ["train", "ship"]},
    },
    "required": ["city", "nights", "by"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}


class Trip(pydantic.BaseModel):
    """What `client.chat.completions.parse` makes of an answer."""

    city: str = pydantic.Field(max_length=12)
    nights: int = pydantic.Field(ge=1, le=14)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("structured")
    with Platform(home) as running:
        running.add("tiny", write_tiny_llama(home / "llama"), engine="torch")
        running.add("simulated", write_simulated(home / "simulated"))
        yield running


@pytest.fixture
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def check_trip(text: str | None) -> None:
    trip = json.loads(text or "")
    assert set(trip) == set(SCHEMA["required"])
    assert 1 <= trip["nights"] <= 14
    assert trip["by"] in ("train", "ship")


def test_answer_satisfies_the_schema_whole_and_streamed(client: openai.OpenAI) -> None:
    arguments: Any = {"model": "tiny", "messages": USER, "seed": 7, "response_format": FORMAT}
    whole = client.chat.completions.create(**arguments).choices[0]
    check_trip(whole.message.content)
    assert whole.finish_reason == "stop"
    chunks = list(client.chat.completions.create(**arguments, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content


def test_choices_satisfy_the_schema_with_penalties(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=USER,
        n=4,
        seed=2,
        temperature=1.4,
        frequency_penalty=1.0,
        response_format=FORMAT,
        extra_body={"repetition_penalty": 1.2},
    )
    texts = [choice.message.content for choice in answer.choices]
    for text in texts:
        check_trip(text)
    assert len(set(texts)) > 1


def test_pydantic_model_is_parsed_by_the_client(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="tiny", messages=USER, seed=1, response_format=Trip)
    trip = answer.choices[0].message.parsed
    assert trip is not None
    assert 1 <= trip.nights <= 14


def test_json_object_starts_as_one_and_stop_strings_still_stop(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=USER, max_tokens=40, seed=3, response_format={"type": "json_object"}
    )
    assert (answer.choices[0].message.content or "").startswith("{")
    stopped = client.chat.completions.create(
        model="tiny", messages=USER, seed=3, stop="nights", response_format=FORMAT
    )
    assert (stopped.choices[0].message.content or "").endswith('"')
    assert stopped.choices[0].finish_reason == "stop"


def test_completion_takes_the_format_too(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt="Trip: ", max_tokens=200, seed=5, extra_body={"response_format": FORMAT}
    )
    check_trip(answer.choices[0].text)


def test_schema_that_cannot_be_followed_is_refused_without_a_wake(
    platform: Platform, client: openai.OpenAI
) -> None:
    with platform.client() as admin:
        admin.stop_model("tiny")
    bad: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "null"}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=USER, response_format=bad)
    assert caught.value.param == "response_format.json_schema.schema"
    with platform.client() as admin:
        assert not admin.get_model("tiny").replicas


def test_engine_without_grammars_refuses_the_format(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="simulated", messages=USER, response_format=FORMAT)
    assert caught.value.param == "response_format"
    assert caught.value.code == "unsupported_parameter"
