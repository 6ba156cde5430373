# SPDX-License-Identifier: Apache-2.0
"""Whether the schemas of a request can be followed, before a model is woken for it. Knows no model."""

from __future__ import annotations

import asyncio

from serverlessllm.text.grammar import check_grammar, grammar_of
from serverlessllm.wire.openai import ChatRequest, CompletionRequest
from serverlessllm.wire.response_format import JsonSchemaFormat

SCHEMA_PARAM = "response_format.json_schema.schema"


async def check_formats(request: ChatRequest | CompletionRequest) -> None:
    """Compile what the caller wrote, in a thread: milliseconds mostly, at most a second.

    Raises: InvalidRequestError naming the schema's field.
    """
    if isinstance(request.response_format, JsonSchemaFormat):
        grammar = grammar_of(request.response_format)
        await asyncio.to_thread(check_grammar, grammar, SCHEMA_PARAM)
