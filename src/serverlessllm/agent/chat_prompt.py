# SPDX-License-Identifier: Apache-2.0
"""The messages and tools of a chat, as Hugging Face templates expect them. Pure; knows no template."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from blake3 import blake3

from serverlessllm.text.tool_syntax import MISTRAL, ToolSyntax
from serverlessllm.wire.messages import Message
from serverlessllm.wire.tools import FunctionSpec, ToolCall

_MISTRAL_ID: Final = re.compile(r"[A-Za-z0-9]{9}")
"""Mistral's templates take call ids of this form only."""


def template_messages(messages: Sequence[Message], syntax: ToolSyntax | None) -> list[dict[str, object]]:
    """Arguments of calls become objects again; a tool message is told the name of the function that it answers."""
    names = {call.id: call.function.name for message in messages for call in message.tool_calls or ()}
    return [_message(message, names, syntax) for message in messages]


def template_tools(functions: Sequence[FunctionSpec]) -> list[dict[str, object]] | None:
    """As `transformers` hands them to templates; None where there are none."""
    if not functions:
        return None
    return [{"type": "function", "function": _function(function)} for function in functions]


def _function(function: FunctionSpec) -> dict[str, object]:
    found: dict[str, object] = {"name": function.name}
    if function.description is not None:
        found["description"] = function.description
    found["parameters"] = function.parameters or {"type": "object", "properties": {}}
    return found


def _message(message: Message, names: dict[str, str], syntax: ToolSyntax | None) -> dict[str, object]:
    fields: dict[str, object] = {"role": message.role, "content": message.text}
    if message.name is not None:
        fields["name"] = message.name
    if message.tool_calls:
        fields["tool_calls"] = [_call(call, syntax) for call in message.tool_calls]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = _id(message.tool_call_id, syntax)
        fields.setdefault("name", names.get(message.tool_call_id, ""))
    return fields


def _call(call: ToolCall, syntax: ToolSyntax | None) -> dict[str, object]:
    arguments: object = call.function.arguments
    try:
        parsed = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        arguments = parsed
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": _id(call.id, syntax), "type": "function", "function": function}


def _id(call_id: str, syntax: ToolSyntax | None) -> str:
    if syntax is not MISTRAL or _MISTRAL_ID.fullmatch(call_id):
        return call_id
    return blake3(call_id.encode("utf-8", "replace")).hexdigest()[:9]
