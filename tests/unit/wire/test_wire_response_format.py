# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest

from serverlessllm.errors import InvalidRequestError
from serverlessllm.wire.openai import parse_chat, parse_completion
from serverlessllm.wire.response_format import MAX_SCHEMA_DEPTH, JsonObjectFormat, JsonSchemaFormat


def chat(response_format: object, **fields: object) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "response_format": response_format}
    return parse_chat(json.dumps(body | fields).encode())


def schema_format(schema: object, name: str = "answer") -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def test_formats_are_read_for_chats_and_completions() -> None:
    assert isinstance(chat({"type": "json_object"}).response_format, JsonObjectFormat)
    body = {"model": "m", "prompt": "x", "response_format": schema_format({"type": "integer"})}
    parsed = parse_completion(json.dumps(body).encode())
    assert isinstance(parsed.response_format, JsonSchemaFormat)
    assert parsed.response_format.json_schema.schema == {"type": "integer"}


@pytest.mark.parametrize(
    ("response_format", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        (schema_format("text"), "response_format.json_schema.schema"),
        (schema_format({}, name="no spaces"), "response_format.json_schema.name"),
        (schema_format(nested(MAX_SCHEMA_DEPTH + 1)), "response_format.json_schema.schema"),
        (schema_format({"description": "x" * 70_000}), "response_format.json_schema.schema"),
        ({"type": "json_object", "extra": 1}, "response_format.extra"),
    ],
)
def test_malformed_format_is_named(response_format: object, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat(response_format)
    assert caught.value.param == param


def test_format_and_ignore_eos_exclude_each_other() -> None:
    assert chat({"type": "text"}, ignore_eos=True).ignore_eos
    with pytest.raises(InvalidRequestError) as caught:
        chat({"type": "json_object"}, ignore_eos=True)
    assert caught.value.param == "ignore_eos"
