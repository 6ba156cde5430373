# SPDX-License-Identifier: Apache-2.0
"""`GET /events?from=SEQ` of an agent: one sequenced stream, a snapshot and then what changed.

Each event is `id: SEQ` and `data: JSON` (grammar in `wire/sse.py`), SEQ rising by one. `from` = the last
SEQ seen: when the agent still holds what came after it, only that is sent, otherwise a new snapshot. Without
`from`, and after a restart of the agent (another `boot_id`), a snapshot comes first.
A heartbeat each second says: alive.
"""

from __future__ import annotations

from typing import Final, get_args

import msgspec

from serverlessllm.wire.agent import (
    AgentStatus,
    BandwidthStatus,
    LoadProgressStatus,
    LoadResult,
    RegionStatus,
    ReplicaStatus,
)

HEARTBEAT_S: Final = 1.0


class KvChunks(msgspec.Struct, frozen=True):
    """The prompt chunks (`wire/prompt_chunks.py`) that a replica has in its cache of keys and values."""

    model: str
    revision: str
    names: list[int]


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """The whole state. Replicas that have no chunk, or never tell, are left out of `kv`."""

    status: AgentStatus
    kv: list[KvChunks] = []


class ReplicaChanged(msgspec.Struct, frozen=True, tag="replica"):
    """A replica changed state or load; state `gone` removes it."""

    replica: ReplicaStatus


class RegionChanged(msgspec.Struct, frozen=True, tag="region"):
    """Bytes arrived in or left (`nbytes` 0) the arena."""

    region: RegionStatus
    arena_used_bytes: int


class LoadProgressed(msgspec.Struct, frozen=True, tag="load"):
    """A load moved on."""

    load: LoadProgressStatus


class LoadEnded(msgspec.Struct, frozen=True, tag="load_ended"):
    """A load is over; `error` is None when it succeeded, and `result` tells how fast it was and what limited it."""

    model: str
    revision: str
    error: str | None
    result: LoadResult | None = None


class BandwidthChanged(msgspec.Struct, frozen=True, tag="bandwidth"):
    """A transfer fed the estimate."""

    bandwidth: BandwidthStatus


class SlotsChanged(msgspec.Struct, frozen=True, tag="slots"):
    """Slots were forked, primed, bound or discarded, or an engine's compute dtype became known."""

    slots: dict[str, int]
    dtypes: dict[str, str]


class KvChanged(msgspec.Struct, frozen=True, tag="kv"):
    """Prompt chunks came into a replica's cache, or are no longer whole in it. A replica that is gone has none."""

    model: str
    revision: str
    stored: list[int]
    removed: list[int]


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """Nothing changed."""

    boot_id: str


AgentEvent = (
    Snapshot
    | ReplicaChanged
    | RegionChanged
    | SlotsChanged
    | LoadProgressed
    | LoadEnded
    | BandwidthChanged
    | KvChanged
    | Heartbeat
)

KNOWN_TAGS: Final = frozenset(kind.__struct_config__.tag for kind in get_args(AgentEvent))
"""Events of other kinds are of a newer agent, and are skipped."""
