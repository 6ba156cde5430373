# SPDX-License-Identifier: Apache-2.0
"""`response_format`: free text, any JSON object, or JSON that a schema describes. Knows no grammar.

Both `/v1/chat/completions` and, as an extension, `/v1/completions` take it.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from serverlessllm.errors import InvalidRequestError

MAX_SCHEMA_BYTES: Final = 64 << 10
MAX_SCHEMA_DEPTH: Final = 100
"""Levels of arrays and objects within each other; a schema reaches further by `$ref`."""
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

Schema = dict[str, Any]
"""A JSON schema: a tree of JSON values, which has no narrower type."""


class TextFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="text"):
    """Anything: as if the field were not there."""


class JsonObjectFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="json_object"):
    """One JSON object."""


class NamedSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schema as OpenAI wraps it. It always holds, `strict` or not; `name` and `description` change nothing."""

    name: str
    schema: Schema = {}
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="json_schema"):
    """JSON that satisfies the schema."""

    json_schema: NamedSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


def check_response_format(response_format: ResponseFormat | None) -> None:
    """Raises: InvalidRequestError naming the field. Whether the schema can be compiled is `text/grammar.py`'s."""
    if isinstance(response_format, JsonSchemaFormat):
        wrapped = response_format.json_schema
        check_name(wrapped.name, "response_format.json_schema.name")
        check_schema(wrapped.schema, "response_format.json_schema.schema")


def check_name(name: str, param: str) -> None:
    """As OpenAI bounds the names of schemas and functions. Raises: InvalidRequestError naming `param`."""
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(f"{param}: 1 to 64 letters, digits, '_' and '-'", param=param)


def check_schema(schema: Schema, param: str) -> None:
    """Bounds of size and depth. Raises: InvalidRequestError naming `param`."""
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise InvalidRequestError(f"{param}: nested deeper than {MAX_SCHEMA_DEPTH} levels", param=param)
    nbytes = len(msgspec.json.encode(schema))
    if nbytes > MAX_SCHEMA_BYTES:
        raise InvalidRequestError(
            f"{param}: {nbytes} bytes of schema, at most {MAX_SCHEMA_BYTES} are taken", param=param
        )


def _depth(value: object) -> int:
    """Levels of arrays and objects; without recursion, for values of strangers."""
    depth = 0
    level = [value]
    while level:
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        depth += any(isinstance(item, (dict, list)) for item in level)
        level = inner
    return depth
