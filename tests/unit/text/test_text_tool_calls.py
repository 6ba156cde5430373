# SPDX-License-Identifier: Apache-2.0
"""Calls in the text of answers, whole, cut anywhere, malformed, and beside text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.text.tool_calls import CallDelta, ToolCallParser
from serverlessllm.text.tool_syntax import HERMES, LLAMA3, MISTRAL, ToolSyntax, tool_syntax
from support.tool_templates import HERMES_TEMPLATE, LLAMA3_TEMPLATE, MISTRAL_TEMPLATE

NAMES = {"weather", "add"}
PARIS = '{"city": "Pa\\"r}is", "days": [1, {"a": 2}]}'
NO_CALLS: list[tuple[str, str]] = []
HERMES_CALL = f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>'
LLAMA_CALL = f'{{"name": "weather", "parameters": {PARIS}}}'


def read(syntax: ToolSyntax, *pushes: str) -> tuple[str, list[tuple[str, str]]]:
    """All text, and (name, arguments) of each call."""
    parser = ToolCallParser(syntax, NAMES)
    text, deltas = "", list[CallDelta]()
    for parsed in (*(parser.push(each) for each in pushes), parser.flush()):
        text += parsed.text
        deltas += parsed.calls
    assert [delta.index for delta in deltas if delta.name] == list(range(parser.num_calls))
    calls = [
        (delta.name, "".join(part.arguments for part in deltas if part.index == delta.index))
        for delta in deltas
        if delta.name
    ]
    return text, calls


@pytest.mark.parametrize(
    ("syntax", "answer", "text", "calls"),
    [
        (HERMES, HERMES_CALL, "", [("weather", PARIS)]),
        (HERMES, f"Let me look.\n{HERMES_CALL}", "Let me look.", [("weather", PARIS)]),
        (HERMES, f"{HERMES_CALL}\n{HERMES_CALL}\n", "", [("weather", PARIS)] * 2),
        (HERMES, f"{HERMES_CALL} Done.", " Done.", [("weather", PARIS)]),
        (HERMES, "Just text with a < b and <tool", "Just text with a < b and <tool", NO_CALLS),
        (HERMES, "<tool_call>\nnonsense", "<tool_call>\nnonsense", NO_CALLS),
        (HERMES, HERMES_CALL.replace("weather", "rm"), HERMES_CALL.replace("weather", "rm"), NO_CALLS),
        (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>', "", [("add", '{"a": 1}')]),
        (HERMES, '<tool_call>{"name": "add"}</tool_call>', "", [("add", "{}")]),
        (HERMES, '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}', "", [("add", '{"a": 1}')]),
        (HERMES, '<tool_call>{"name": "add", "id": 3, "arguments": {"a"', "", [("add", '{"a"')]),
        (HERMES, '{"name": "weather", "arguments": {}}', '{"name": "weather", "arguments": {}}', NO_CALLS),
        (MISTRAL, f'[TOOL_CALLS][{{"name": "weather", "arguments": {PARIS}}}]', "", [("weather", PARIS)]),
        (
            MISTRAL,
            '[TOOL_CALLS] [{"name": "add", "arguments": {}}, {"name": "weather", "arguments": {"c": 1}}]',
            "",
            [("add", "{}"), ("weather", '{"c": 1}')],
        ),
        (MISTRAL, "[TOOL_CALLS][]", "[TOOL_CALLS][]", NO_CALLS),
        (LLAMA3, LLAMA_CALL, "", [("weather", PARIS)]),
        (LLAMA3, f"<|python_tag|>{LLAMA_CALL}", "", [("weather", PARIS)]),
        (LLAMA3, f"{LLAMA_CALL}; {LLAMA_CALL}", "", [("weather", PARIS)] * 2),
        (LLAMA3, f"I call {LLAMA_CALL}", f"I call {LLAMA_CALL}", NO_CALLS),
        (LLAMA3, ' {"city": "Paris"} is JSON', ' {"city": "Paris"} is JSON', NO_CALLS),
        (LLAMA3, '{"name": "weather", "parameters": 5}', '{"name": "weather", "parameters": 5}', NO_CALLS),
    ],
)
def test_calls_and_text_are_parted_however_the_answer_is_cut(
    syntax: ToolSyntax, answer: str, text: str, calls: list[tuple[str, str]]
) -> None:
    assert read(syntax, answer) == (text, calls)
    assert read(syntax, *answer) == (text, calls)
    for cut in range(len(answer)):
        assert read(syntax, answer[:cut], answer[cut:]) == (text, calls)


def test_arguments_are_delivered_as_they_come() -> None:
    parser = ToolCallParser(HERMES, NAMES)
    assert parser.push('<tool_call>\n{"name": "add"').calls == []
    assert parser.push(', "arguments": {"a": 1').calls == [CallDelta(0, '{"a": 1', "add")]
    assert parser.push("2}").calls == [CallDelta(0, "2}")]
    assert (parser.num_calls, parser.num_finished) == (1, 0)
    assert parser.push("}\n</tool").calls == []
    assert (parser.num_finished, parser.flush().text) == (1, "")


@given(
    arguments=st.dictionaries(st.text(), st.recursive(st.none() | st.text() | st.integers(), st.lists)),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    syntax=st.sampled_from([HERMES, MISTRAL, LLAMA3]),
)
def test_any_arguments_come_out_as_they_went_in(
    arguments: dict[str, object], cuts: list[int], syntax: ToolSyntax
) -> None:
    call = json.dumps({"name": "add", syntax.arguments_key: arguments})
    answer = f"{syntax.opening}{syntax.before}{call}{syntax.after}{syntax.closing}"
    borders = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    pushes = [answer[start:end] for start, end in zip(borders, borders[1:], strict=False)]
    text, calls = read(syntax, *pushes)
    assert (text, len(calls), calls[0][0]) == ("", 1, "add")
    assert json.loads(calls[0][1]) == arguments


@given(st.text(alphabet='<tool_call>/{}[]":,\\ nameruTOL', max_size=80), st.integers(0, 80))
def test_no_text_is_lost_where_no_call_is(answer: str, cut: int) -> None:
    for syntax in (HERMES, MISTRAL, LLAMA3):
        assert read(syntax, answer[:cut], answer[cut:]) == (answer, [])


@pytest.mark.parametrize(
    ("source", "syntax"),
    [
        (HERMES_TEMPLATE, HERMES),
        (MISTRAL_TEMPLATE, MISTRAL),
        (LLAMA3_TEMPLATE, LLAMA3),
        ('{% if tools %}<|start_header_id|>{"name": , "parameters": }', LLAMA3),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{% if tools %}<tool_call><function=name>{% endif %}", None),
        ("{% if tools %}[TOOL_CALLS]name[ARGS]{}{% endif %}", None),
    ],
)
def test_syntax_is_read_off_the_template(source: str, syntax: ToolSyntax | None) -> None:
    assert tool_syntax(source) is syntax
