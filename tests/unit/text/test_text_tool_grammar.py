# SPDX-License-Identifier: Apache-2.0
"""Grammars of calls: what they let through in each syntax, and what not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from serverlessllm.errors import InvalidRequestError
from serverlessllm.text.tool_grammar import tool_grammar
from serverlessllm.text.tool_syntax import HERMES, LLAMA3, MISTRAL, ToolSyntax
from serverlessllm.wire.response_format import JsonSchemaFormat, NamedSchema, ResponseFormat
from serverlessllm.wire.tools import FunctionSpec, ToolUse

MARKER_ID = 257
ADD = FunctionSpec(
    "add", parameters={"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}
)
CITY = FunctionSpec(
    "city", parameters={"properties": {"name": {"enum": ["Rome"]}}, "required": ["name"]}, strict=True
)
MUST = ToolUse((ADD, CITY), must_call=True)
MAY = ToolUse((ADD, CITY))
ANSWER = JsonSchemaFormat(NamedSchema("n", {"type": "integer"}))


class Spelled:
    """Bytes, an end, and one control token that spells the opening marker."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256, MARKER_ID)

    def __init__(self, marker: str) -> None:
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"<eos>", marker.encode()]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def takes(
    syntax: ToolSyntax,
    use: ToolUse,
    answer: str,
    *,
    has_marker_id: bool = False,
    response_format: ResponseFormat | None = None,
) -> bool:
    """Whether the grammar lets `answer` through to its end."""
    special: Callable[[str], int | None] = lambda text: (  # noqa: E731
        MARKER_ID if has_marker_id and text == syntax.opening else None
    )
    grammar = tool_grammar(syntax, use, response_format, special)
    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(Spelled(syntax.opening))), grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    parts = answer.split(syntax.opening) if has_marker_id else [answer]
    ids = list(parts[0].encode())
    for part in parts[1:]:
        ids += [MARKER_ID, *part.encode()]
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def call(syntax: ToolSyntax, *objects: str) -> str:
    """The calls as the syntax writes them."""
    named = [each.replace("ARGS", syntax.arguments_key) for each in objects]
    if syntax is LLAMA3:
        return "; ".join(named)
    if syntax is MISTRAL:
        return f"[TOOL_CALLS][{', '.join(named)}]"
    return "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in named)


GOOD = '{"name": "add", "ARGS": {"a":5}}'
ROME = '{"name": "city", "ARGS": {"name": "Rome"}}'
BAD_ROME = '{"name": "city", "ARGS": {"name": "Bonn"}}'
LOOSE = '{"name": "add", "ARGS": {"a":"five"}}'


@pytest.mark.parametrize("has_marker_id", [False, True])
@pytest.mark.parametrize("syntax", [HERMES, MISTRAL, LLAMA3], ids=lambda syntax: syntax.name)
def test_enforced_calls_satisfy_their_schemas(syntax: ToolSyntax, has_marker_id: bool) -> None:
    def allowed(use: ToolUse, *objects: str) -> bool:
        return takes(syntax, use, call(syntax, *objects), has_marker_id=has_marker_id)

    assert allowed(MUST, GOOD)
    assert allowed(MUST, ROME, GOOD)
    assert not allowed(MUST, BAD_ROME)
    assert not allowed(MUST, LOOSE)
    assert not allowed(ToolUse((ADD, CITY), must_call=True, may_repeat=False), GOOD, GOOD)
    assert not allowed(ToolUse((ADD,), must_call=True, may_repeat=False), ROME)
    assert not takes(syntax, MUST, "text", has_marker_id=has_marker_id)


@pytest.mark.parametrize("has_marker_id", [False, True])
@pytest.mark.parametrize("syntax", [HERMES, MISTRAL, LLAMA3], ids=lambda syntax: syntax.name)
def test_free_choice_holds_strict_functions_only(syntax: ToolSyntax, has_marker_id: bool) -> None:
    def allowed(answer: str) -> bool:
        return takes(syntax, MAY, answer, has_marker_id=has_marker_id)

    assert allowed("Just text, 5 < 6.\n")
    assert allowed(call(syntax, LOOSE))
    assert allowed(call(syntax, ROME, LOOSE))
    assert not allowed(call(syntax, BAD_ROME))
    if syntax is not LLAMA3:
        assert allowed("Let me see. " + call(syntax, ROME))


@pytest.mark.parametrize("syntax", [HERMES, MISTRAL, LLAMA3], ids=lambda syntax: syntax.name)
def test_answer_is_a_call_or_in_the_response_format(syntax: ToolSyntax) -> None:
    assert takes(syntax, MAY, call(syntax, ROME), response_format=ANSWER)
    assert takes(syntax, MAY, "42", response_format=ANSWER)
    assert not takes(syntax, MAY, "Forty-two", response_format=ANSWER)


def test_too_many_tools_are_refused() -> None:
    parameters = {"properties": {f"p{number}": {"description": "x" * 50} for number in range(60)}}
    many = tuple(FunctionSpec(f"f{number}", parameters=parameters) for number in range(100))
    with pytest.raises(InvalidRequestError) as caught:
        tool_grammar(HERMES, ToolUse(many, must_call=True), None, lambda text: None)
    assert caught.value.param == "tools"
