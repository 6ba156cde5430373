# SPDX-License-Identifier: Apache-2.0
"""Bodies of `/admin/*`: what operators, the CLI and the console send to and read from the orchestrator.

Durations are milliseconds (`_ms`) or seconds (`_s`), sizes bytes. `*_s` fields named after an event
(`created_s`, `arrived_s`) are Unix time. Knows no HTTP and no store.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from serverlessllm.errors import InvalidRequestError
from serverlessllm.types import (
    DEFAULT_TENANT,
    MAX_TENSOR_PARALLEL,
    TENSOR_PARALLEL_OPTION,
    EngineKind,
    Role,
    StartKind,
    Tier,
    check_model_name,
    check_tenant,
)
from serverlessllm.wire.agent import AgentStatus, LoadProgressStatus, ReplicaStatus
from serverlessllm.wire.hop import Hop
from serverlessllm.wire.openai import field_error

ModelState = Literal["registering", "remote", "ready", "failed"]
"""registering: its source is being fetched and converted · remote: its bytes come with the first call, or with
`sllm model pull` · ready: its artifact is there · failed: see `error`. Remote and ready ones may be called."""

RequestState = Literal["held", "running", "done", "failed", "cancelled"]
"""held: its model wakes · running: sent to an agent · the others: finished, with `status` and `error`."""

DecisionKind = Literal["wake", "replica", "warm", "route"]
"""A sleeping model's first replica · one more of a model whose queue is long · only bytes into memory, before they
are called for · which of several ready replicas took a request."""

DECISION_VERSION: Final = 2
MAX_SOURCE_BYTES: Final = 4096
MAX_KEY_NAME_BYTES: Final = 200
MAX_OPTIONS: Final = 64
MAX_REPLICAS: Final = 1024


class AddModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /admin/models`. `source` is an absolute path on the server, `hf://org/name[@revision]` or `org/name`,
    `s3://bucket/prefix`, or an http(s) URL.

    `lazy`: fetch and convert at the first call (True) or now (False); None: what lies elsewhere at the first call.
    `dtype` rounds the weights once, at conversion (None keeps them). `keep_alive_s` None takes the server's.
    `options` go to the engine as they are. `min_replicas` stay awake, whoever calls or not; at most `max_replicas`
    are added while its queue is long (None: one per node).
    """

    name: str
    source: str
    engine: EngineKind = "torch"
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    keep_alive_s: float | None = None
    options: dict[str, float] = {}
    lazy: bool | None = None
    min_replicas: int = 0
    max_replicas: int | None = None


def parse_add_model(body: bytes) -> AddModel:
    """Decode and check. Raises InvalidRequestError naming the field."""
    try:
        request = msgspec.json.decode(body, type=AddModel)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error
    except RecursionError as error:
        raise InvalidRequestError("body: nested too deeply") from error
    check_model_name(request.name, param="name")
    if not 0 < len(request.source.encode("utf-8", "replace")) <= MAX_SOURCE_BYTES or "\0" in request.source:
        raise InvalidRequestError(
            f"source: a text of 1 to {MAX_SOURCE_BYTES} bytes without NUL", param="source"
        )
    if request.keep_alive_s is not None and not 0 <= request.keep_alive_s < float("inf"):
        raise InvalidRequestError("keep_alive_s: must not be negative", param="keep_alive_s")
    _check_replicas(request)
    if len(request.options) > MAX_OPTIONS:
        raise InvalidRequestError(f"options: at most {MAX_OPTIONS}", param="options")
    num_ranks = request.options.get(TENSOR_PARALLEL_OPTION, 1)
    if num_ranks not in range(1, MAX_TENSOR_PARALLEL + 1):
        raise InvalidRequestError(
            f"options.{TENSOR_PARALLEL_OPTION}: a whole number from 1 to {MAX_TENSOR_PARALLEL}",
            param="options",
        )
    return request


def _check_replicas(request: AddModel) -> None:
    if not 0 <= request.min_replicas <= MAX_REPLICAS:
        raise InvalidRequestError(f"min_replicas: from 0 to {MAX_REPLICAS}", param="min_replicas")
    highest = request.max_replicas
    if highest is not None and not max(1, request.min_replicas) <= highest <= MAX_REPLICAS:
        raise InvalidRequestError(
            f"max_replicas: from 1 to {MAX_REPLICAS}, and not below min_replicas", param="max_replicas"
        )


class IngestProgress(msgspec.Struct, frozen=True):
    """How far fetching (`fetch`), converting (`convert`) or publishing (`publish`) is; other phases only wait.

    `total_bytes` 0 and `eta_s` None while they are not known yet.
    """

    job_id: str
    phase: str
    done_bytes: int
    total_bytes: int
    bytes_per_s: float = 0.0
    eta_s: float | None = None


class ReplicaView(msgspec.Struct, frozen=True):
    """One replica of a model, and the agent that has it."""

    agent_id: str
    status: ReplicaStatus


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A registered model. `tier` is the fastest place that holds its bytes now (None: not known to be anywhere).

    `loads` are under way; `num_held` requests wait for the model to wake. `resolved` is what `source` meant when it
    was fetched; `origins` hold the artifact too.
    """

    name: str
    source: str
    engine: EngineKind
    dtype: str | None
    state: ModelState
    revision: str | None
    nbytes: int
    created_s: float
    keep_alive_s: float
    options: dict[str, float]
    error: str | None = None
    progress: IngestProgress | None = None
    tier: Tier | None = None
    replicas: list[ReplicaView] = []
    loads: list[LoadProgressStatus] = []
    num_held: int = 0
    resolved: str | None = None
    origins: list[str] = []
    min_replicas: int = 0
    max_replicas: int | None = None


class ModelList(msgspec.Struct, frozen=True):
    """`GET /admin/models`, by name."""

    models: list[ModelView]


class StopModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /admin/models/{name}/stop`; `drop_bytes` frees the model's memory too."""

    drop_bytes: bool = False


def parse_stop_model(body: bytes) -> StopModel:
    """Decode and check; an empty body takes the defaults. Raises InvalidRequestError naming the field."""
    try:
        return msgspec.json.decode(body or b"{}", type=StopModel)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error


class Stopped(msgspec.Struct, frozen=True):
    """`POST /admin/models/{name}/stop`: how many replicas were unbound."""

    num_unloaded: int


class Deleted(msgspec.Struct, frozen=True):
    """`DELETE`: what was removed, by its name or id."""

    deleted: str


class AgentView(msgspec.Struct, frozen=True):
    """One agent that we follow. `silent_s` since its last event; `status` is None until the first one.

    A drained agent takes nothing new. `problem` says why an agent that answers is not used. `breaker`: requests go
    elsewhere while it is open, and one by one while it is half open.
    """

    address: str
    is_alive: bool
    silent_s: float
    status: AgentStatus | None
    is_drained: bool = False
    problem: str | None = None
    breaker: Literal["closed", "open", "half_open"] = "closed"


class DrainAgent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /admin/agents/{id}/drain`: take nothing new, or (false) again."""

    drained: bool


class AgentList(msgspec.Struct, frozen=True):
    """`GET /admin/agents`."""

    agents: list[AgentView]


class Candidate(msgspec.Struct, frozen=True):
    """One (agent, device set) that a decision looked at.

    `rejected` says which filter dropped it; else `terms_s` are the expected seconds by
    reason (queue, load, kv, evict, failures) before weighting and `score_s` their weighted sum.
    """

    agent_id: str
    device_set: str
    rejected: str | None = None
    terms_s: dict[str, float] = {}
    score_s: float | None = None


class PlacementDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Why a replica is where it is, or why a request went there.

    `probability` is the chance with which the pick was made among ties. `request_id` is the request that was routed,
    or the first that a loaded replica answered; `ttft_ms` its TTFT. `wake_ms`: until the replica was ready.
    `outcome`: ready, cancelled, or an error's code; of a route the request's end.
    """

    model: str
    revision: str
    attempt: int
    decided_s: float
    candidates: list[Candidate]
    weights: dict[str, float]
    picked: str | None
    probability: float
    version: int = DECISION_VERSION
    kind: DecisionKind = "wake"
    request_id: str | None = None
    wake_ms: float | None = None
    ttft_ms: float | None = None
    outcome: str | None = None


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """One request's road. `phases` has every phase in order (queue … first_token), in milliseconds.

    `ttft_ms` and `e2e_ms` count from arrival; 0 while not reached. `gbps` are 10⁹ bytes/s of its load. `load_ms` is
    the length of a load beside which it was computed; 0 where it was not. `cached_tokens` of the prompt were not
    computed again. `hops` are there where its stream broke. `trace_id` is empty where it was not traced.
    """

    request_id: str
    model: str
    endpoint: str
    arrived_s: float
    state: RequestState
    status: int
    error: str | None
    is_stream: bool
    start: StartKind
    tier: Tier | None
    revision: str | None
    agent_id: str | None
    attempt: int
    num_retries: int
    phases: dict[str, float]
    ttft_ms: float
    e2e_ms: float
    nbytes: int
    gbps: float
    possible_gbps: float
    limiting: str
    prompt_tokens: int
    completion_tokens: int
    load_ms: float = 0.0
    cached_tokens: int = 0
    tenant: str = DEFAULT_TENANT
    trace_id: str = ""
    hops: list[Hop] = []


class RequestList(msgspec.Struct, frozen=True):
    """`GET /admin/requests`, the newest first."""

    requests: list[RequestView]


class RequestDetail(msgspec.Struct, frozen=True):
    """`GET /admin/requests/{id}`. `decision` placed the replica that served it; None when it is not kept.

    `route` chose that replica among several ready ones; None when there was one, or it is not kept.
    """

    request: RequestView
    decision: PlacementDecision | None
    route: PlacementDecision | None = None


class CreateKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /admin/keys`. Prompts are cached for each tenant apart."""

    name: str
    role: Role = "infer"
    tenant: str = DEFAULT_TENANT


def parse_drain_agent(body: bytes) -> DrainAgent:
    """Raises InvalidRequestError naming the field."""
    try:
        return msgspec.json.decode(body, type=DrainAgent)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error


def parse_create_key(body: bytes) -> CreateKey:
    """Decode and check. Raises InvalidRequestError naming the field."""
    try:
        request = msgspec.json.decode(body, type=CreateKey)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error
    if (
        not 0 < len(request.name.encode("utf-8", "replace")) <= MAX_KEY_NAME_BYTES
        or not request.name.isprintable()
    ):
        raise InvalidRequestError(f"name: 1 to {MAX_KEY_NAME_BYTES} bytes of printable text", param="name")
    check_tenant(request.tenant)
    return request


class KeyView(msgspec.Struct, frozen=True):
    """An API key without its secret; `shown_prefix` is how its text begins."""

    id: str
    name: str
    role: Role
    created_s: float
    shown_prefix: str = ""
    tenant: str = DEFAULT_TENANT


class KeyList(msgspec.Struct, frozen=True):
    """`GET /admin/keys`."""

    keys: list[KeyView]


class KeyCreated(msgspec.Struct, frozen=True):
    """Answer to `POST /admin/keys`: the only time that `secret` is shown."""

    key: KeyView
    secret: str


class ConsoleSnapshot(msgspec.Struct, frozen=True):
    """Each event of `GET /admin/events`: all that the console draws."""

    now_s: float
    models: list[ModelView]
    agents: list[AgentView]
    requests: list[RequestView]
