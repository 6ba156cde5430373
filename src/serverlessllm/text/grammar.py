# SPDX-License-Identifier: Apache-2.0
"""From JSON schemas to grammars of answers, and whether a grammar can be compiled. Knows no tokens of a model.

A schema means here what llguidance reads in it: what that does not implement (`not`, `uniqueItems`, unknown formats,
…) is refused by name, never ignored. Compiling releases the GIL; call it in a thread.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Final

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from serverlessllm.errors import InvalidRequestError
from serverlessllm.wire.grammar import MAX_GRAMMAR_BYTES, PARSER_LIMITS
from serverlessllm.wire.response_format import (
    JsonObjectFormat,
    JsonSchemaFormat,
    ResponseFormat,
    Schema,
)

WHITESPACE: Final = r" |\n {0,20}"
"""Compact, spaced or indented JSON, but never endless whitespace, in which small models get lost."""
_ANY_OBJECT: Final[Schema] = {"type": "object"}


def grammar_of(response_format: ResponseFormat | None) -> str:
    """The grammar of an answer in this format; empty for free text.

    Raises: InvalidRequestError naming `response_format.json_schema.schema` when it cannot be read.
    """
    schema = schema_of(response_format)
    return "" if schema is None else json_grammar(schema, "response_format.json_schema.schema")


def schema_of(response_format: ResponseFormat | None) -> Schema | None:
    """What the answer must satisfy; None for free text."""
    match response_format:
        case JsonObjectFormat():
            return _ANY_OBJECT
        case JsonSchemaFormat(json_schema=wrapped):
            return wrapped.schema
        case _:
            return None


def json_grammar(schema: Schema, param: str) -> str:
    """The grammar of JSON that satisfies `schema`. Raises: InvalidRequestError naming `param`."""
    try:
        return LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides={"whitespace_pattern": WHITESPACE, "lenient": False}
        )
    except ValueError as error:
        raise InvalidRequestError(f"{param}: {error}", param=param) from error


def check_grammar(grammar: str, param: str) -> None:
    """Compile it and take its first step, within the limits that engines have too.

    Raises: InvalidRequestError naming `param`, with the reason.
    """
    if len(grammar.encode()) > MAX_GRAMMAR_BYTES:
        raise InvalidRequestError(
            f"{param}: makes a grammar of more than {MAX_GRAMMAR_BYTES} bytes", param=param
        )
    matcher = LLMatcher(_bytes_tokenizer(), grammar, log_level=0, limits=PARSER_LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        reason = matcher.get_error().partition("\n<non-verbose/>")[0]
        raise InvalidRequestError(f"{param}: {_EXPLAINED.get(reason, reason)}", param=param)


_EXPLAINED: Final = {"NoExtensionBias": "nothing satisfies this schema"}
"""llguidance's words that do not explain themselves."""


class _Bytes:
    """A vocabulary of single bytes: enough to compile any grammar with."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<eos>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@cache
def _bytes_tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes()))
