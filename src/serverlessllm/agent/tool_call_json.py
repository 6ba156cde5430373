# SPDX-License-Identifier: Apache-2.0
"""Calls of functions as OpenAI's clients read them: as deltas of a stream, or whole. Pure; knows no syntax."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from blake3 import blake3
from msgspec import UNSET, UnsetType

from serverlessllm.text.tool_calls import CallDelta


class FunctionDelta(msgspec.Struct, frozen=True):
    """What a called function gained; `name` on the first delta of a call only."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct, frozen=True):
    """What the `index`-th call gained; `id` and `type` on the first delta of a call only."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class WholeFunction(msgspec.Struct, frozen=True):
    """A called function; `arguments` is JSON as the model wrote it."""

    name: str
    arguments: str


class WholeToolCall(msgspec.Struct, frozen=True):
    """A call of a whole answer."""

    id: str
    function: WholeFunction
    type: str = "function"


def call_id(request_id: str, choice: int, index: int) -> str:
    """A call's id: a function of where it stands, so that a stream which is continued elsewhere keeps it."""
    return f"call_{blake3(f'{request_id}/{choice}/{index}'.encode()).hexdigest()[:24]}"


def call_deltas(deltas: Sequence[CallDelta], request_id: str, choice: int) -> list[ToolCallDelta]:
    """The deltas of one chunk."""
    return [
        ToolCallDelta(delta.index, FunctionDelta(delta.arguments))
        if delta.name is None
        else ToolCallDelta(
            delta.index,
            FunctionDelta(delta.arguments, delta.name),
            call_id(request_id, choice, delta.index),
            "function",
        )
        for delta in deltas
    ]


def whole_calls(deltas: Sequence[CallDelta], request_id: str, choice: int) -> list[WholeToolCall]:
    """All deltas of one answer, joined."""
    names = [delta.name for delta in deltas if delta.name is not None]
    return [
        WholeToolCall(
            call_id(request_id, choice, index),
            WholeFunction(name, "".join(delta.arguments for delta in deltas if delta.index == index)),
        )
        for index, name in enumerate(names)
    ]
