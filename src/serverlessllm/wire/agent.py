# SPDX-License-Identifier: Apache-2.0
"""Orchestrator ⇄ agent: the bodies of `/load`, `/unload`, `/status`, and the headers of `/infer`.

`/infer` takes the client's body untouched; all that the orchestrator adds travels in headers.
Every call carries the cluster secret in `x-sllm-secret` and the caller's version in `x-sllm-wire`. Fields that a
neighbouring version added are ignored; new ones have defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, get_args
from urllib.parse import quote, unquote

import msgspec

from serverlessllm.errors import WireError
from serverlessllm.types import ReplicaState, StartKind, Tier, check_model_name, is_revision
from serverlessllm.wire import WIRE_VERSION
from serverlessllm.wire.openai import Endpoint
from serverlessllm.wire.trace_context import TRACEPARENT, parse

SECRET_HEADER: Final = "x-sllm-secret"
WIRE_HEADER: Final = "x-sllm-wire"
"""The caller's `WIRE_VERSION`; an agent refuses one that is not its own or a neighbour's."""
REQUEST_ID_HEADER: Final = "x-request-id"
AGENT_TIMING_HEADER: Final = "x-sllm-timing"
"""Of `/infer`'s response: JSON `InferTiming`."""
CREATED_HEADER: Final = "x-sllm-created"
TENANT_HEADER: Final = "x-sllm-tenant"
SEED_HEADER: Final = "x-sllm-seed"
HOP_HEADER: Final = "x-sllm-hop"


class Loss(msgspec.Struct, frozen=True, array_like=True):
    """Expected seconds that callers lose when a revision is unbound on a node, and when its bytes leave DRAM."""

    unbind_s: float
    evict_s: float


class LoadRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """`POST /load`: bring `revision` up as a replica of `model`. Answers when it is ready, or with an error.

    `artifact` is the artifact's directory on this node. `attempt` fences: a lower one than seen is refused.
    `evict_idle`: whether idle replicas of other models may be unbound to make room.
    `origins` are remote artifact directories (`s3://…/<revision>`, `https://…/<revision>`) from which bytes come
    that this node lacks or has wrong. A step of `priority` doubles the load's share of disk and network.
    `losses`: revision → what its going would cost others; where room must be made, the least of them goes first.
    `warm_only`: only the bytes are brought into DRAM, and the text is parsed; no slot is taken, no seat, no replica.
    """

    model: str
    revision: str
    artifact: str
    engine: str
    attempt: int
    dtype: str = "auto"
    options: dict[str, float] = {}
    evict_idle: bool = True
    origins: list[str] = []
    priority: int = 0
    losses: dict[str, Loss] = {}
    warm_only: bool = False


class LoadResult(msgspec.Struct, frozen=True):
    """What the load was: the farthest `tier` that bytes came from, and its phases.

    `start`: hot if it was ready, warm if the bytes were on the node, cold if not. A cold load's bytes move in
    `fetch_ms`, a warm one's in `read_ms`. `limiting` is the medium that set the pace.
    `is_streaming`: the replica takes requests while bytes still arrive. Then `fetch_ms` or `read_ms` is the time
    until binding began; what a request waits for bytes after that is in its `InferTiming`, and so is the load's pace.
    """

    model: str
    revision: str
    attempt: int
    start: StartKind
    tier: Tier
    nbytes: int
    fetch_ms: float
    read_ms: float
    bind_ms: float
    gbps: float
    possible_gbps: float
    limiting: str
    is_streaming: bool = False


class UnloadRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """`POST /unload`: unbind. `drop_bytes` frees the region too; `only_idle` refuses while requests run."""

    model: str
    revision: str
    attempt: int
    only_idle: bool = False
    drop_bytes: bool = False


class UnloadResult(msgspec.Struct, frozen=True):
    """`unloaded` False: there was nothing to unload, or `only_idle` and it was busy."""

    unloaded: bool


class ReplicaStatus(msgspec.Struct, frozen=True):
    """One replica, as the agent sees it. `idle_s` since its last request ended; 0 while one runs.

    `is_loading`: it is ready, and its bytes still arrive. `num_seats` requests are computed together; 0: not
    known yet. `request_s`: how long one held its seat, on the mean of the last ones; 0: none has ended yet.
    """

    model: str
    revision: str
    attempt: int
    state: ReplicaState
    engine: str
    device_set: str
    pid: int | None
    num_running: int
    num_queued: int
    idle_s: float
    is_loading: bool = False
    num_seats: int = 0
    request_s: float = 0.0


class RegionStatus(msgspec.Struct, frozen=True):
    """One revision's bytes in the arena. `is_verified` is False for adopted ones until they were checked."""

    revision: str
    nbytes: int
    is_complete: bool
    is_pinned: bool
    is_verified: bool = True


class BandwidthStatus(msgspec.Struct, frozen=True):
    """Observed bandwidth: EWMA mean and variance, of a tier as a whole, or of one `source` in it (disk, origin).

    `possible_bytes_per_s`: the most that a tier is known to give, by `sllm tune io` or the fastest load; 0: unknown.
    """

    tier: Tier
    mean_bytes_per_s: float
    variance: float
    num_samples: int
    source: str = ""
    possible_bytes_per_s: float = 0.0


class PrefaultStatus(msgspec.Struct, frozen=True):
    """Free DRAM with touched pages. `state`: off | touching | waiting (others work) | ready | no_memory."""

    state: str
    touched_bytes: int
    target_bytes: int
    bytes_per_s: float


class LoadProgressStatus(msgspec.Struct, frozen=True):
    """A load that is under way."""

    model: str
    revision: str
    phase: str
    done_bytes: int
    total_bytes: int
    eta_s: float


class AgentStatus(msgspec.Struct, frozen=True):
    """`GET /status`, and the snapshot of `/events`. `boot_id` changes with each start of the agent.

    `dtypes`: engine → compute dtype, once it is known. `max_num_ranks`: the most ranks of one model here.
    `max_replicas` are bound at once; 0: not told. `on_disk`: the revisions whose artifacts lie on this node's disk.
    """

    agent_id: str
    boot_id: str
    wire_version: int
    engines: list[str]
    arena_budget_bytes: int
    arena_used_bytes: int
    arena_location: str
    replicas: list[ReplicaStatus]
    regions: list[RegionStatus]
    loads: list[LoadProgressStatus]
    bandwidths: list[BandwidthStatus]
    slots: dict[str, int]
    dtypes: dict[str, str] = {}
    prefault: PrefaultStatus | None = None
    max_num_ranks: int = 1
    max_replicas: int = 0
    on_disk: list[str] = []


class StreamedLoad(msgspec.Struct, frozen=True):
    """The load beside which a request was computed. `load_ms`: from its first byte to its last; `gbps` over that."""

    start: StartKind
    tier: Tier
    nbytes: int
    load_ms: float
    gbps: float


class InferTiming(msgspec.Struct, frozen=True):
    """The agent's share of a request's road, sent in the response headers with the first token (ms).

    `stall_ms`: how long the engine waited for weights, `prefill_ms` how long it computed; with `load`, both lie
    between the same two moments.
    """

    queue_ms: float
    prefill_ms: float
    prompt_tokens: int
    cached_tokens: int = 0
    stall_ms: float = 0.0
    load: StreamedLoad | None = None


class InferHeaders(msgspec.Struct, frozen=True):
    """All that the orchestrator tells an agent about one request, beside the client's own body.

    `seed` is used where the body has none; `deadline_ms` is
    what is left of the request's time (0 = none). `adapter` is the revision of a LoRA adapter, `adapter_artifact` its
    directory on the node. `hop` numbers the runs of one request, which its `seed` tells from others of its id: a run
    ends those of lower numbers. `traceparent` (W3C) is what traces call the request; empty where it is not traced.
    """

    request_id: str
    created_s: int
    endpoint: Endpoint
    model: str
    revision: str
    attempt: int
    deadline_ms: int
    tenant: str
    priority: int
    cache_salt: str
    seed: int
    adapter: str = ""
    adapter_artifact: str = ""
    hop: int = 0
    traceparent: str = ""

    def encode(self) -> dict[str, str]:
        """As HTTP headers."""
        return {
            REQUEST_ID_HEADER: self.request_id,
            CREATED_HEADER: str(self.created_s),
            "x-sllm-endpoint": self.endpoint,
            "x-sllm-model": self.model,
            "x-sllm-revision": self.revision,
            "x-sllm-attempt": str(self.attempt),
            "x-sllm-deadline-ms": str(self.deadline_ms),
            TENANT_HEADER: self.tenant,
            "x-sllm-priority": str(self.priority),
            "x-sllm-cache-salt": self.cache_salt,
            SEED_HEADER: str(self.seed),
            WIRE_HEADER: str(WIRE_VERSION),
            **({HOP_HEADER: str(self.hop)} if self.hop else {}),
            **({TRACEPARENT: self.traceparent} if self.traceparent else {}),
            **(
                {"x-sllm-adapter": self.adapter, "x-sllm-adapter-artifact": quote(self.adapter_artifact)}
                if self.adapter
                else {}
            ),
        }

    @classmethod
    def decode(cls, headers: Mapping[str, str]) -> InferHeaders:
        """Raises WireError naming the header that is missing or malformed."""
        endpoint = text_header(headers, "x-sllm-endpoint")
        known = next((name for name in get_args(Endpoint) if name == endpoint), None)
        if known is None:
            raise WireError(f"header x-sllm-endpoint: {endpoint[:40]!r} is unknown", source="agent")
        revision = text_header(headers, "x-sllm-revision")
        if not is_revision(revision):
            raise WireError("header x-sllm-revision: not 32 hex digits", source="agent")
        adapter = headers.get("x-sllm-adapter", "")
        if adapter and not is_revision(adapter):
            raise WireError("header x-sllm-adapter: not 32 hex digits", source="agent")
        trace = parse(headers.get(TRACEPARENT))
        return cls(
            adapter=adapter,
            adapter_artifact=unquote(text_header(headers, "x-sllm-adapter-artifact")) if adapter else "",
            request_id=text_header(headers, REQUEST_ID_HEADER),
            created_s=number_header(headers, CREATED_HEADER),
            endpoint=known,
            model=check_model_name(text_header(headers, "x-sllm-model"), param="x-sllm-model"),
            revision=revision,
            attempt=number_header(headers, "x-sllm-attempt"),
            deadline_ms=number_header(headers, "x-sllm-deadline-ms"),
            tenant=text_header(headers, TENANT_HEADER),
            priority=number_header(headers, "x-sllm-priority"),
            cache_salt=text_header(headers, "x-sllm-cache-salt"),
            seed=number_header(headers, SEED_HEADER),
            hop=number_header(headers, HOP_HEADER) if HOP_HEADER in headers else 0,
            traceparent="" if trace is None else trace.header(),
        )


def text_header(headers: Mapping[str, str], name: str) -> str:
    """Raises WireError when it is missing."""
    value = headers.get(name)
    if value is None:
        raise WireError(f"header {name} is missing", source="agent")
    return value


def number_header(headers: Mapping[str, str], name: str) -> int:
    """Raises WireError when it is missing or no integer."""
    value = text_header(headers, name)
    digits = value[1:] if value.startswith("-") else value
    if not digits.isdigit() or len(digits) > 20:
        raise WireError(f"header {name}: {value[:40]!r} is not an integer", source="agent")
    return int(value)
