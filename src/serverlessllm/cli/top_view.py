# SPDX-License-Identifier: Apache-2.0
"""What `sllm top` shows, as values: models, nodes and requests at one moment, and how fast tokens came.

Pure; knows no terminal.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serverlessllm.cli.model import state_of
from serverlessllm.wire.admin import AgentView, ModelView, RequestView
from serverlessllm.wire.agent import BandwidthStatus

LIVE_STATES = ("held", "running")


class ModelTop(msgspec.Struct, frozen=True):
    """A model: its state in a word, the fastest tier that has it, and its requests over all replicas.

    `progress`: how far its load is, 0 to 1; None where none is under way.
    """

    name: str
    state: str
    tier: str | None
    num_replicas: int
    num_held: int
    num_running: int
    num_queued: int
    progress: float | None = None


class NodeTop(msgspec.Struct, frozen=True):
    """A node. `bandwidths` are of its tiers: observed, and possible where that is known, bytes per second."""

    node: str
    state: str
    silent_s: float
    arena_used_bytes: int
    arena_budget_bytes: int
    num_replicas: int
    num_running: int
    num_queued: int
    slots: dict[str, int]
    loads: list[str]
    bandwidths: list[BandwidthStatus]
    address: str


class Top(msgspec.Struct, frozen=True):
    """One moment. `tokens_per_s` came since the look before; `requests` are those that are not over."""

    at_s: float
    num_held: int
    num_running: int
    num_queued: int
    tokens_per_s: float
    models: list[ModelTop]
    nodes: list[NodeTop]
    requests: list[RequestView]


def top_of(
    at_s: float,
    models: Sequence[ModelView],
    agents: Sequence[AgentView],
    requests: Sequence[RequestView],
    before: dict[str, int],
    elapsed_s: float,
) -> Top:
    """`before`: tokens of each request at the look before, `elapsed_s` ago. The busiest models first."""
    rows = sorted(map(_model, models), key=lambda row: (-_load_of(row), row.name))
    nodes = [_node(view) for view in agents]
    fresh = sum(max(0, count - before.get(name, 0)) for name, count in tokens_of(requests).items())
    return Top(
        at_s=at_s,
        num_held=sum(row.num_held for row in rows),
        num_running=sum(row.num_running for row in rows),
        num_queued=sum(row.num_queued for row in rows),
        tokens_per_s=fresh / elapsed_s if before and elapsed_s > 0 else 0.0,
        models=rows,
        nodes=nodes,
        requests=[request for request in requests if request.state in LIVE_STATES],
    )


def tokens_of(requests: Sequence[RequestView]) -> dict[str, int]:
    """Request → tokens that its client got so far."""
    return {request.request_id: request.completion_tokens for request in requests}


def _load_of(row: ModelTop) -> int:
    return 1000 * (row.num_held + row.num_running + row.num_queued) + row.num_replicas


def _model(view: ModelView) -> ModelTop:
    statuses = [replica.status for replica in view.replicas]
    progress = None
    if view.loads and view.loads[0].total_bytes:
        progress = view.loads[0].done_bytes / view.loads[0].total_bytes
    return ModelTop(
        name=view.name,
        state=state_of(view),
        tier=view.tier,
        num_replicas=len(statuses),
        num_held=view.num_held,
        num_running=sum(status.num_running for status in statuses),
        num_queued=sum(status.num_queued for status in statuses),
        progress=progress,
    )


def _node(view: AgentView) -> NodeTop:
    status = view.status
    state = "drained" if view.is_drained else "alive"
    if not view.is_alive:
        state = "silent"
    if status is None:
        return NodeTop("–", state, view.silent_s, 0, 0, 0, 0, 0, {}, [], [], view.address)
    return NodeTop(
        node=status.agent_id,
        state=state,
        silent_s=view.silent_s,
        arena_used_bytes=status.arena_used_bytes,
        arena_budget_bytes=status.arena_budget_bytes,
        num_replicas=len(status.replicas),
        num_running=sum(replica.num_running for replica in status.replicas),
        num_queued=sum(replica.num_queued for replica in status.replicas),
        slots={name: number for name, number in status.slots.items() if number},
        loads=[load.model for load in status.loads],
        bandwidths=[band for band in status.bandwidths if not band.source and band.num_samples],
        address=view.address,
    )
