# SPDX-License-Identifier: Apache-2.0
"""What the metadata store's values mean: typed records, written as JSON.

A field that a later version adds must have a default; fields that we do not know are skipped, so that an older
program reads what a newer one wrote. Knows no keys and no store.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from serverlessllm.metadata.store import Entry, UnreadableStoreError
from serverlessllm.types import DEFAULT_TENANT, EngineKind, ReplicaState, Role
from serverlessllm.wire.admin import ModelState
from serverlessllm.wire.scheduler import ScoreWeights


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`models/{name}`: a name that users call, and the revision that it stands for now.

    `revision`, `artifact` (its directory) and `nbytes` (of the weights) are known once it is ready; `origins` are
    further places that hold the same artifact (`s3://bucket/prefix/<revision>`), for nodes that lack bytes of it.
    `source` is what the operator registered, `resolved` what it meant when it was fetched (a branch became a
    commit), `dtype` what the weights were rounded to (None: kept), `job_id` the ingest job that is or was under
    way. `keep_alive_s` None takes the server's; `options` go to the engine as they are. `min_replicas` stay awake;
    `max_replicas` None: one per node.
    """

    name: str
    state: ModelState
    engine: EngineKind
    source: str
    created_at_s: float
    revision: str | None = None
    artifact: str | None = None
    origins: list[str] = []
    nbytes: int = 0
    resolved: str | None = None
    dtype: str | None = None
    keep_alive_s: float | None = None
    options: dict[str, float] = {}
    error: str | None = None
    job_id: str | None = None
    min_replicas: int = 0
    max_replicas: int | None = None


class PlacementRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`placements/{model}/{replica}`: where a replica is, or who is bringing it up.

    `attempt` fences: a writer that holds a lower one has been overtaken. `claimant` is the orchestrator that wakes
    it; until the replica is ready the record lives under that orchestrator's lease.
    """

    model: str
    replica: str
    node: str
    revision: str
    attempt: int
    state: ReplicaState
    devices: tuple[str, ...] = ("cpu",)
    slot: str | None = None
    claimant: str = ""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`keys/{hash}`: an API key without its text. `shown_prefix` is how people tell their keys apart.

    `tenant`: whose requests these are; prompts are cached for each tenant apart.
    """

    id: str
    name: str
    role: Role
    hash: str
    shown_prefix: str
    created_at_s: float
    tenant: str = DEFAULT_TENANT


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`agents/{id}`, leased: who the agent is and how to reach it; fast state comes from its event stream.

    `is_stopping`: it was told to stop and takes nothing new; what runs there may finish.
    """

    id: str
    address: str
    wire_version: int
    devices: tuple[str, ...]
    engines: tuple[EngineKind, ...]
    memory_bytes: int
    is_stopping: bool = False


class DrainRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`drained/{id}`: an operator wants this agent to take nothing new; it outlives the agent's restarts.

    `is_leaving`: its ready replicas take no requests either, and what they run is moved to others.
    """

    id: str
    since_s: float
    is_leaving: bool = False


class WeightsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`scheduler/weights`: how much each term of a placement's score counts, for all orchestrators."""

    weights: ScoreWeights
    changed_at_s: float


Record = ModelRecord | PlacementRecord | KeyRecord | AgentRecord | DrainRecord | WeightsRecord
_Record = TypeVar("_Record", bound=Record)

_encoder = msgspec.json.Encoder(order="deterministic")


def encode(record: Record) -> bytes:
    """The record as JSON, the same bytes for the same record."""
    return _encoder.encode(record)


def decode(kind: type[_Record], entry: Entry) -> _Record:
    """The entry's value as a record. Raises UnreadableStoreError naming the key."""
    try:
        return msgspec.json.decode(entry.value, type=kind)
    except msgspec.MsgspecError as error:
        raise UnreadableStoreError(
            f"metadata key {entry.key} does not hold a {kind.__name__} ({error}); delete it, or restore the store"
        ) from error
