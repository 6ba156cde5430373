# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest

from serverlessllm.errors import RequestError
from serverlessllm.wire.openai import ChatRequest, parse_chat

USER = {"role": "user", "content": "x"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "annotations": []}
ANSWERING = {"role": "tool", "content": "5", "tool_call_id": "call_1"}


def tool(name: str = "add", **fields: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, **fields}}


def chat(**fields: object) -> ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": [USER]} | fields).encode())


def test_conversation_with_calls_is_taken() -> None:
    request = chat(messages=[USER, CALLING, ANSWERING], tools=[tool()])
    assert [message.role for message in request.messages] == ["user", "assistant", "tool"]
    assert request.tool_use.tools[0].name == "add"


@pytest.mark.parametrize(
    ("choice", "parallel", "names", "must_call", "may_repeat"),
    [
        (None, None, ["add", "city"], False, True),
        ("auto", False, ["add", "city"], False, False),
        ("required", None, ["add", "city"], True, True),
        ("none", None, [], False, True),
        ({"type": "function", "function": {"name": "city"}}, None, ["city"], True, False),
    ],
)
def test_choice_says_what_may_be_called(
    choice: Any, parallel: bool | None, names: list[str], must_call: bool, may_repeat: bool
) -> None:
    request = chat(tools=[tool(), tool("city")], tool_choice=choice, parallel_tool_calls=parallel)
    use = request.tool_use
    assert [function.name for function in use.tools] == names
    assert (use.must_call, use.may_repeat) == (must_call, may_repeat)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [tool("no spaces")]}, "tools[0].function.name"),
        ({"tools": [tool(), tool()]}, "tools[1].function.name"),
        ({"tools": [tool(parameters="text")]}, "tools[0].function.parameters"),
        ({"tools": [tool(parameters={"description": "x" * 70_000})]}, "tools[0].function.parameters"),
        ({"tools": [tool(f"f{number}") for number in range(129)]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": "always"}, "tool_choice"),
        (
            {"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice",
        ),
        ({"messages": [USER, ANSWERING]}, "messages[1].tool_call_id"),
        ({"messages": [CALLING, {"role": "tool", "content": "5"}]}, "messages[1].tool_call_id"),
        ({"messages": [{**USER, "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{**USER, "tool_call_id": "call_1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "content": "", "refusal": "no"}]}, "messages[0].refusal"),
        ({"tools": [tool()], "tool_choice": "required", "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_malformed_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert (caught.value.http_status, caught.value.param) == (400, param)
