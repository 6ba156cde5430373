# SPDX-License-Identifier: Apache-2.0
"""Messages and tools as chat templates get them."""

from __future__ import annotations

import json

import pytest

from serverlessllm.agent.chat_prompt import template_messages, template_tools
from serverlessllm.text.chat_template import ChatTemplate
from serverlessllm.text.tool_syntax import ToolSyntax
from serverlessllm.wire.messages import Message
from serverlessllm.wire.tools import CalledFunction, FunctionSpec, ToolCall
from support.tool_templates import HERMES_TEMPLATE, LLAMA3_TEMPLATE, MISTRAL_TEMPLATE

TALK = [
    Message(role="user", content="Weather?"),
    Message(
        role="assistant", tool_calls=[ToolCall("call_abc", CalledFunction("weather", '{"city":"Rome"}'))]
    ),
    Message(role="tool", content="sunny", tool_call_id="call_abc"),
]
TOOLS = [FunctionSpec("weather", "Tells it.", {"type": "object"}, strict=True)]


def rendered(source: str) -> str:
    template = ChatTemplate({"default": source}, {})
    messages = template_messages(TALK, template.tool_syntax)
    return template.render(messages, tools=template_tools(TOOLS))


@pytest.mark.parametrize(
    ("source", "call"),
    [
        (HERMES_TEMPLATE, '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'),
        (LLAMA3_TEMPLATE, '<|python_tag|>{"name": "weather", "parameters": {"city": "Rome"}}'),
        (MISTRAL_TEMPLATE, '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome"}, "id": "'),
    ],
)
def test_history_of_calls_reads_as_the_model_would_have_written_it(source: str, call: str) -> None:
    text = rendered(source)
    assert call in text
    assert "sunny of weather " in text
    shown = json.loads(text.split("\n")[1])
    function = {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}}
    assert shown == {"type": "function", "function": function}


def test_ids_are_nine_characters_where_the_template_asks_for_it() -> None:
    syntax: ToolSyntax | None = ChatTemplate({"default": MISTRAL_TEMPLATE}, {}).tool_syntax
    _, call, answer = template_messages(TALK, syntax)
    calls = call["tool_calls"]
    assert isinstance(calls, list)
    assert len(calls[0]["id"]) == 9
    assert calls[0]["id"] == answer["tool_call_id"]


def test_arguments_that_are_no_object_stay_as_they_were_written() -> None:
    odd = Message(role="assistant", tool_calls=[ToolCall("c", CalledFunction("f", "not json"))])
    (message,) = template_messages([odd], None)
    calls = message["tool_calls"]
    assert isinstance(calls, list)
    assert calls[0]["function"]["arguments"] == "not json"


def test_no_tools_are_none() -> None:
    assert template_tools([]) is None
