# SPDX-License-Identifier: Apache-2.0
"""Schemas that can be followed, and those that are refused, hostile ones within bounds."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from serverlessllm.errors import InvalidRequestError
from serverlessllm.text.grammar import check_grammar, grammar_of, json_grammar
from serverlessllm.wire.response_format import JsonObjectFormat, JsonSchemaFormat, NamedSchema, TextFormat

RECURSIVE: dict[str, Any] = {
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
    "$ref": "#/$defs/node",
}


def check(schema: dict[str, Any]) -> None:
    check_grammar(json_grammar(schema, "schema"), "schema")


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        RECURSIVE,
        {"type": "string", "format": "date-time"},
        {"enum": [f"value {number}" for number in range(1000)]},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
    ],
)
def test_schema_that_can_be_followed_is_taken(schema: dict[str, Any]) -> None:
    check(schema)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "text"}, "text"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "format": "shoe-size"}, "shoe-size"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"$ref": "https://example.com/schema.json"}, "example.com"),
        ({"$ref": "file:///etc/passwd"}, "not present"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "nothing satisfies"),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
    ],
)
def test_schema_that_cannot_be_followed_is_refused_with_its_reason(
    schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        check(schema)
    assert caught.value.param == "schema"


def test_hostile_schemas_stay_within_memory() -> None:
    explosive: list[dict[str, Any]] = [
        {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
        {"type": "string", "minLength": 10**9},
        {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(1000)}},
        {"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(4)]} for i in range(12)]},
    ]
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for schema in explosive:
        try:
            check(schema)
        except InvalidRequestError as refused:
            assert refused.param == "schema"
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < 100 << 10


def test_each_format_has_its_grammar() -> None:
    assert grammar_of(None) == grammar_of(TextFormat()) == ""
    assert "object" in grammar_of(JsonObjectFormat())
    named = JsonSchemaFormat(NamedSchema("answer", {"type": "integer"}))
    assert "integer" in grammar_of(named)
