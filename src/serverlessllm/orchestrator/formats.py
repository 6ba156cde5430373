# SPDX-License-Identifier: Apache-2.0
"""Whether the schemas of a request can be followed, before a model is woken for it. Knows no model."""

from __future__ import annotations

import asyncio

from serverlessllm.text.grammar import check_grammar, json_grammar
from serverlessllm.wire.openai import ChatRequest, CompletionRequest
from serverlessllm.wire.response_format import JsonSchemaFormat, Schema


async def check_formats(request: ChatRequest | CompletionRequest) -> None:
    """Compile what the answer will be held to, in a thread: milliseconds mostly, at most a second each.

    Raises: InvalidRequestError naming the schema's field.
    """
    for param, schema in _schemas(request):
        await asyncio.to_thread(_check, schema, param)


def _schemas(request: ChatRequest | CompletionRequest) -> list[tuple[str, Schema]]:
    found = []
    if isinstance(request.response_format, JsonSchemaFormat):
        found.append(("response_format.json_schema.schema", request.response_format.json_schema.schema))
    if isinstance(request, ChatRequest) and request.tools:
        use = request.tool_use
        for index, tool in enumerate(request.tools):
            if tool.function in use.tools and use.holds(tool.function):
                found.append((f"tools[{index}].function.parameters", tool.function.arguments_schema))
    return found


def _check(schema: Schema, param: str) -> None:
    check_grammar(json_grammar(schema, param), param)
