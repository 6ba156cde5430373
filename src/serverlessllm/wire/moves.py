# SPDX-License-Identifier: Apache-2.0
"""`/admin`, about moving running requests: what operators ask, and what became of it."""

from __future__ import annotations

import msgspec

from serverlessllm.wire.migrate import MigrateResult, Mode
from serverlessllm.wire.openai import field_error


class MoveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /admin/requests/{id}/migrate`: move it to the agent `to`; empty: to where it costs least."""

    to: str = ""
    mode: Mode = "auto"


class Evacuate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /admin/agents/{id}/evacuate`: drain the agent, and move what runs there to others."""

    mode: Mode = "auto"


class MoveView(msgspec.Struct, frozen=True, kw_only=True):
    """One move, and between which agents."""

    source: str
    destination: str
    model: str
    result: MigrateResult


class Evacuated(msgspec.Struct, frozen=True, kw_only=True):
    """What was moved, and how many streams run there still; `num_whole` other requests are being finished there."""

    moves: list[MoveView]
    num_left: int
    num_whole: int = 0


def parse_move(body: bytes) -> MoveRequest:
    """Raises InvalidRequestError naming the field."""
    try:
        return msgspec.json.decode(body, type=MoveRequest)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error


def parse_evacuate(body: bytes) -> Evacuate:
    """Raises InvalidRequestError naming the field."""
    try:
        return msgspec.json.decode(body, type=Evacuate)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error
