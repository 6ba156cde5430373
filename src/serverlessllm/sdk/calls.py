# SPDX-License-Identifier: Apache-2.0
"""Every call of the orchestrator's `/admin` API and of its chat, as data: what to send, what comes back.

The synchronous and the asynchronous client send these; neither says anything about the wire itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

import httpx

from serverlessllm.sdk.request import Call, raise_for_error, segment
from serverlessllm.types import EngineKind, Role
from serverlessllm.wire.admin import (
    AddModel,
    AgentList,
    AgentView,
    CreateKey,
    Deleted,
    DrainAgent,
    KeyCreated,
    KeyList,
    ModelList,
    ModelView,
    PlacementDecision,
    RequestDetail,
    RequestList,
    StopModel,
    Stopped,
)
from serverlessllm.wire.disk import CleanDisk, CleanedView, DiskView
from serverlessllm.wire.migrate import Mode
from serverlessllm.wire.moves import Evacuate, Evacuated, MoveRequest, MoveView
from serverlessllm.wire.scheduler import ScoreWeights


class ModelSettings(TypedDict, total=False):
    """What `AddModel` has beside name and source; what is left out takes its default."""

    engine: EngineKind
    dtype: Literal["bfloat16", "float16", "float32"] | None
    keep_alive_s: float | None
    options: dict[str, float]
    lazy: bool | None
    min_replicas: int
    max_replicas: int | None


def list_models() -> Call[ModelList]:
    return Call("GET", "/admin/models", ModelList)


def get_model(name: str) -> Call[ModelView]:
    return Call("GET", f"/admin/models/{segment(name)}", ModelView)


def add_model(name: str, source: str, settings: ModelSettings) -> Call[ModelView]:
    return Call("POST", "/admin/models", ModelView, AddModel(name, source, **settings))


def remove_model(name: str) -> Call[Deleted]:
    return Call("DELETE", f"/admin/models/{segment(name)}", Deleted)


def pull_model(name: str) -> Call[object]:
    """Answered by events; see `sdk/pull_events.py`."""
    return Call("POST", f"/admin/models/{segment(name)}/pull", object, {})


def stop_model(name: str, drop_bytes: bool) -> Call[Stopped]:
    return Call("POST", f"/admin/models/{segment(name)}/stop", Stopped, StopModel(drop_bytes=drop_bytes))


def list_agents() -> Call[AgentList]:
    return Call("GET", "/admin/agents", AgentList)


def view_disks() -> Call[DiskView]:
    return Call("GET", "/admin/disk", DiskView)


def clean_disks(wish: CleanDisk) -> Call[CleanedView]:
    return Call("POST", "/admin/disk/clean", CleanedView, wish)


def move_request(request_id: str, to: str, mode: Mode) -> Call[MoveView]:
    return Call("POST", f"/admin/requests/{segment(request_id)}/migrate", MoveView, MoveRequest(to, mode))


def evacuate_agent(agent_id: str, mode: Mode) -> Call[Evacuated]:
    return Call("POST", f"/admin/agents/{segment(agent_id)}/evacuate", Evacuated, Evacuate(mode))


def drain_agent(agent_id: str, drained: bool) -> Call[AgentView]:
    return Call("POST", f"/admin/agents/{segment(agent_id)}/drain", AgentView, DrainAgent(drained))


class DecisionLines(Call[list[PlacementDecision]]):
    """Answered by one JSON document a line."""

    def read(self, response: httpx.Response) -> list[PlacementDecision]:
        """See `Call.read`."""
        raise_for_error(response)
        return [self._decode(line, PlacementDecision, response) for line in response.content.splitlines()]


def list_decisions(limit: int) -> DecisionLines:
    return DecisionLines("GET", "/admin/decisions", list, params={"limit": str(limit)})


def get_weights() -> Call[ScoreWeights]:
    return Call("GET", "/admin/scheduler/weights", ScoreWeights)


def set_weights(weights: ScoreWeights) -> Call[ScoreWeights]:
    return Call("PUT", "/admin/scheduler/weights", ScoreWeights, weights)


def list_requests(limit: int) -> Call[RequestList]:
    return Call("GET", "/admin/requests", RequestList, params={"limit": str(limit)})


def get_request(request_id: str) -> Call[RequestDetail]:
    return Call("GET", f"/admin/requests/{segment(request_id)}", RequestDetail)


def create_key(name: str, role: Role, tenant: str) -> Call[KeyCreated]:
    return Call("POST", "/admin/keys", KeyCreated, CreateKey(name, role, tenant))


def list_keys() -> Call[KeyList]:
    return Call("GET", "/admin/keys", KeyList)


def revoke_key(key_id: str) -> Call[Deleted]:
    return Call("DELETE", f"/admin/keys/{segment(key_id)}", Deleted)


def chat(
    model: str, messages: Sequence[Mapping[str, object]], parameters: Mapping[str, object]
) -> Call[object]:
    """A streamed chat completion; parameters that are None are left to the server."""
    given = {name: value for name, value in parameters.items() if value is not None}
    body: dict[str, object] = {
        **given,
        "model": model,
        "messages": [dict(message) for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Call("POST", "/v1/chat/completions", object, body)
