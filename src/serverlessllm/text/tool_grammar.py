# SPDX-License-Identifier: Apache-2.0
"""Grammars that hold an answer to calls of functions, in a model's own syntax. Knows no engine.

What must be called is all there is; where the model may choose (`auto`, with a strict function), the answer is free
text up to the opening marker, or the response format, and what follows the marker is a call.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from serverlessllm.errors import InvalidRequestError
from serverlessllm.text.grammar import WHITESPACE, schema_of
from serverlessllm.text.tool_syntax import ToolSyntax
from serverlessllm.wire.grammar import MAX_GRAMMAR_BYTES
from serverlessllm.wire.response_format import ResponseFormat, Schema
from serverlessllm.wire.tools import FunctionSpec, ToolUse

SpecialId = Callable[[str], int | None]
"""Text of a token → its id, if it is a control token, which no text of a grammar can spell."""
_ANY_ARGUMENTS: Schema = {"type": "object"}


def tool_grammar(
    syntax: ToolSyntax, use: ToolUse, response_format: ResponseFormat | None, special_id: SpecialId
) -> str:
    """The grammar of an answer that may, or must, call `use.tools`.

    Raises: InvalidRequestError naming `tools` when they are too much for one grammar.
    """
    rules = ["%llguidance {}", *_start(syntax, use, schema_of(response_format), special_id)]
    rules.append("call: " + " | ".join(f"call_{index}" for index in range(len(use.tools))))
    for index, function in enumerate(use.tools):
        head = f'{{"name": "{function.name}", "{syntax.arguments_key}": '
        rules.append(f"call_{index}: {_text(head)} arguments_{index} {_text('}')}")
        rules.append(f"arguments_{index}: {_json(_arguments(use, function))}")
    grammar = "\n".join(rules) + "\n"
    if len(grammar.encode()) > MAX_GRAMMAR_BYTES:
        raise InvalidRequestError(
            f"tools: make a grammar of more than {MAX_GRAMMAR_BYTES} bytes; offer fewer at once",
            param="tools",
        )
    return grammar


def _start(syntax: ToolSyntax, use: ToolUse, answer: Schema | None, special_id: SpecialId) -> list[str]:
    opening_id = special_id(syntax.opening)
    opening = f"<[{opening_id}]>" if opening_id is not None else _text(syntax.opening)
    rules = [f"calls: {_calls(syntax, opening, may_repeat=use.may_repeat)}"]
    if use.must_call:
        return ["start: calls", *rules]
    if answer is not None:
        return ["start: calls | answer", *rules, f"answer: {_json(answer)}"]
    if syntax.is_bare:
        return ["start: calls | FREE", *rules, r"FREE: /([^{\s](.|\n)*)?/"]
    text = [r"TEXT: /(.|\n)*/"]
    if opening_id is not None:
        return ["start: TEXT | TEXT calls", *rules, *text]
    # Not a marker that a single id stands for: free text ends lazily, where it has just been spelled.
    rest = _calls(syntax, "", may_repeat=use.may_repeat)
    lazy = f"head[lazy]: TEXT {opening}"
    return ["start: TEXT | head first", f"first: {rest}", lazy, *rules, *text]


def _calls(syntax: ToolSyntax, opening: str, *, may_repeat: bool) -> str:
    """One call or several with what stands around them. `opening` "" where the first one was written already."""
    between = _text(syntax.between)
    before, after = _text(syntax.before), f"{_text(syntax.after)} {_text(syntax.closing)}"
    if syntax.is_bare:
        return f"call ({between} call)*" if may_repeat else "call"
    if syntax.fillers:  # a list of calls between one pair of markers
        inner = f"call ({between} call)*" if may_repeat else "call"
        return f"{opening} {before} {inner} {after}"
    first = f"{opening} {before} call {after}"
    again = f"({between} {opening or _text(syntax.opening)} {before} call {after})*"
    return f"{first} {again}" if may_repeat else first


def _arguments(use: ToolUse, function: FunctionSpec) -> Schema:
    return function.arguments_schema if use.holds(function) else _ANY_ARGUMENTS


def _json(schema: Schema) -> str:
    """The schema on its own, so that its `$ref`s point into itself."""
    options = {"whitespace_pattern": WHITESPACE, "lenient": False}
    return "%json " + json.dumps(schema | {"x-guidance": options})


def _text(text: str) -> str:
    return json.dumps(text) if text else ""
