# SPDX-License-Identifier: Apache-2.0
"""Functions that a model may call: `tools`, `tool_choice`, and calls of earlier turns. Knows no model's syntax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from serverlessllm.errors import InvalidRequestError
from serverlessllm.wire.response_format import Schema, check_name, check_schema

MAX_TOOLS: Final = 128
"""As OpenAI bounds them."""


class FunctionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function: `parameters` is the schema of its arguments, an object; None takes no arguments.

    `strict`: arguments must satisfy the schema even where the model chooses freely whether to call.
    """

    name: str
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None

    @property
    def arguments_schema(self) -> Schema:
        """What the arguments must satisfy where they are held to it."""
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return self.parameters


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="function"):
    """The one kind of tool there is here."""

    function: FunctionSpec


class ToolName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function, by name."""

    name: str


class NamedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="function"):
    """`tool_choice`: this function must be called, once."""

    function: ToolName


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class CalledFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an assistant called in an earlier turn; `arguments` is JSON as the model wrote it."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="function"):
    """A call of an earlier turn; a message of role `tool` answers its `id`."""

    id: str
    function: CalledFunction


class ToolUse(msgspec.Struct, frozen=True):
    """What a request says about tools, as far as it matters: `tools` is empty where none may be called.

    `must_call`: a call is all that may be answered. `may_repeat`: with several calls.
    """

    tools: tuple[FunctionSpec, ...] = ()
    must_call: bool = False
    may_repeat: bool = True

    @classmethod
    def of(cls, tools: Sequence[Tool], choice: ToolChoice | None, parallel: bool | None) -> ToolUse:
        """From the request's fields. A named function is the only one, and is called once."""
        functions = tuple(tool.function for tool in tools)
        if isinstance(choice, NamedTool):
            named = tuple(function for function in functions if function.name == choice.function.name)
            return cls(named, must_call=True, may_repeat=False)
        if choice == "none":
            return cls()
        return cls(functions, must_call=choice == "required", may_repeat=parallel is not False)

    @property
    def is_held_to_schemas(self) -> bool:
        """Whether a grammar is needed: to enforce a call, or the arguments of a strict function."""
        return self.must_call or any(function.strict for function in self.tools)

    def holds(self, function: FunctionSpec) -> bool:
        """Whether this function's arguments are held to its schema."""
        return self.must_call or bool(function.strict)


def check_tools(tools: Sequence[Tool], choice: ToolChoice | None) -> None:
    """Raises: InvalidRequestError naming the field. Whether schemas can be compiled is `text/grammar.py`'s."""
    if len(tools) > MAX_TOOLS:
        raise InvalidRequestError(f"tools: at most {MAX_TOOLS}", param="tools")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        at = f"tools[{index}].function"
        check_name(tool.function.name, f"{at}.name")
        check_schema(tool.function.parameters or {}, f"{at}.parameters")
        if tool.function.name in names:
            raise InvalidRequestError(f"{at}.name: {tool.function.name!r} is given twice", param=f"{at}.name")
        names.add(tool.function.name)
    if choice == "required" and not tools:
        raise InvalidRequestError("tool_choice: required needs tools to choose from", param="tool_choice")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise InvalidRequestError(
            f"tool_choice: {choice.function.name!r:.80} is not one of the tools", param="tool_choice"
        )
