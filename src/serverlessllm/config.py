# SPDX-License-Identifier: Apache-2.0
"""Settings of every process: value objects, one source of defaults, units and help texts.

Precedence: defaults < file (YAML) < environment (`SLLM_<SECTION>_<KEY>`) < flags. An unknown key is an
error that names the nearest known one. This is the only module that reads the environment.

The schema is the dataclasses below; `config.example.yaml`, the CLI's flags and `--help` are made from it.
Sizes (`*_bytes`) accept suffixes: `512MiB`, `4GiB`, `2GB`.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_type_hints

import yaml

from serverlessllm.errors import ConfigError

MIB: Final = 1 << 20
GIB: Final = 1 << 30
ENV_PREFIX: Final = "SLLM_"


def setting(
    default: Any,
    help_text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare one setting: its default, its help text and the values it may take."""
    meta = {"help": help_text, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=meta)


@dataclass(frozen=True, slots=True)
class OrchestratorConfig:
    """The front: OpenAI API, holding, placement, proxying, scaling."""

    host: str = setting("127.0.0.1", "Address to listen on. Another than loopback needs keys or --insecure.")
    port: int = setting(8343, "Port to listen on; 0 picks a free one.", low=0, high=65535)
    hold_silently_s: float = setting(
        1.0,
        "How long a request waits for a waking model before stream headers and progress comments are sent.",
        low=0.0,
        high=60.0,
    )
    hold_timeout_s: float = setting(
        300.0, "How long a request may wait for its model at all (then 504).", low=0.1
    )
    keep_alive_s: float = setting(
        300.0, "Idle time after which a replica is unbound; a model may set its own.", low=0.0
    )
    max_held_requests: int = setting(
        1024, "Requests that may wait per model; more get 429 with Retry-After.", low=1
    )
    max_held_total: int = setting(
        8192, "Requests that may wait for models to wake in all; more get 429 with Retry-After.", low=1
    )
    max_body_bytes: int = setting(8 * MIB, "Largest request body.", low=1024)
    max_retries: int = setting(3, "Silent retries of a request before its first byte.", low=0, high=16)
    max_resumes: int = setting(
        8, "How often a broken stream is continued before it ends with an error.", low=0, high=64
    )
    stall_timeout_s: float = setting(
        30.0,
        "How long a stream may bring no byte after its first token before it is continued elsewhere; 0: for ever.",
        low=0.0,
    )
    num_workers: int = setting(
        1,
        "Processes that serve the port together, where one core is not enough (`sllm orchestrator` alone).",
        low=1,
        high=64,
    )
    ingest_url: str = setting(
        "", "URL of the ingest service; empty: `sllm orchestrator` runs one of its own."
    )
    insecure: bool = setting(False, "Allow listening on a public address without API keys.")
    allowed_hosts: tuple[str, ...] = setting(
        (), "Further Host header values to accept, beside loopback and `host`."
    )
    timeline_ring_size: int = setting(
        4096, "Finished requests whose timelines are kept for `sllm request explain`.", low=1
    )


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The node daemon: arena, loader, slots, replicas, text."""

    host: str = setting("127.0.0.1", "Address the agent listens on.")
    port: int = setting(0, "Port the agent listens on; 0 picks a free one.", low=0, high=65535)
    max_queue_length: int = setting(512, "Requests that may wait per replica; more get 429.", low=1)
    tokenizer_cache_size: int = setting(16, "Parsed tokenizers and templates kept in memory.", low=1)
    advertise: str = setting(
        "", "URL at which orchestrators reach this agent; empty: that of `host` and `port`."
    )
    orphan_grace_s: float = setting(
        30.0,
        "How long a stream whose connection broke goes on and is kept, for a client that comes back; 0: not at all.",
        low=0.0,
        high=3600.0,
    )
    stopped_worker_grace_s: float = setting(
        10.0, "How long a worker may be stopped (SIGSTOP) before it is ended; 0: for ever.", low=0.0
    )
    load_timeout_s: float = setting(
        120.0, "Longest load and bind of a replica before it counts as failed.", low=1.0
    )


@dataclass(frozen=True, slots=True)
class ArenaConfig:
    """The DRAM tier."""

    budget_bytes: int = setting(0, "DRAM for weights; 0 takes 40 % of the machine's memory.", low=0)
    extent_bytes: int = setting(16 * MIB, "Grain of allocation; a multiple of 2 MiB.", low=2 * MIB)
    huge_pages: str = setting(
        "auto",
        "Huge-page tmpfs: auto falls back to /dev/shm, always fails without.",
        choices=("auto", "always", "never"),
    )
    prefault_bytes: int = setting(
        1 * GIB,
        "Free DRAM whose pages are touched ahead of need, in the background; 0 touches none.",
        low=0,
    )
    keep_on_stop: bool = setting(
        False, "Leave the weights in memory after a clean stop, for the next start to adopt."
    )


@dataclass(frozen=True, slots=True)
class LoaderConfig:
    """Every tier → arena, and the NVMe tier's room."""

    threads: int = setting(
        0, "Reading threads, shared by all loads; 0 takes what `sllm tune io` found, else 4.", low=0, high=64
    )
    chunk_bytes: int = setting(
        0,
        "Bytes per read, a multiple of 4 KiB; 0 takes what `sllm tune io` found, else 8 MiB.",
        low=0,
        high=64 * MIB,
    )
    direct_io: str = setting(
        "auto",
        "O_DIRECT: auto falls back where the file system refuses it, or `sllm tune io` found it slower.",
        choices=("auto", "always", "never"),
    )
    verify: str = setting(
        "first",
        "Which reads of the node's own disk are checked against their digests: the first of each file since "
        "the agent started or the file changed, all, or none. What comes from elsewhere always is.",
        choices=("first", "always", "never"),
    )
    max_disk_bytes_per_s: int = setting(
        0, "Most that loads read from the node's own disk each second, together; 0: no bound.", low=0
    )
    nvme_budget_bytes: int = setting(
        0, "Disk for artifacts; 0 takes all but a twentieth of the file system.", low=0
    )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Slots and the embedded engine."""

    kinds: tuple[str, ...] = setting(
        (), "Engines of this node: some of torch, vllm, simulated; empty takes all that are installed."
    )
    slots: int = setting(1, "Primed workers waiting per engine kind.", low=0, high=64)
    max_replicas: int = setting(8, "Replicas bound on this node at once, over all models.", low=1)
    threads: int = setting(0, "Compute threads per worker; 0 takes all cores.", low=0, high=1024)
    dtype: str = setting(
        "auto",
        "Compute dtype; auto takes bfloat16 where this CPU is measured faster with it.",
        choices=("auto", "bfloat16", "float32"),
    )
    device: str = setting(
        "cpu",
        "Where `torch` computes. cuda: one GPU; its waiting slots page-lock the whole arena, so give that its "
        "budget in real memory.",
        choices=("cpu", "cuda"),
    )
    max_num_seqs: int = setting(8, "Requests decoded together per replica.", low=1, high=1024)
    max_model_len_tokens: int = setting(0, "Context limit; 0 takes the model's own.", low=0)
    kv_cache_bytes: int = setting(
        0,
        "Blocks of keys and values of a replica, in use and cached; bounds its context. Running sequences have their "
        "keys and values once more, in windows as long as each. 0 takes 1/32 of the memory.",
        low=0,
    )
    tensor_parallel: int = setting(
        0,
        "Ranks of the groups of workers that wait primed beside single ones, for models added with "
        "--tensor-parallel; 0: a group is made when it is first asked for, and one waits from then on.",
        low=0,
        high=64,
    )
    max_tensor_parallel: int = setting(
        0,
        "Most ranks of one model on this node; 0 takes its number of cores, and 1 on a GPU.",
        low=0,
        high=64,
    )
    packed_weights: bool = setting(
        True,
        "In bfloat16 on a CPU, a replica that goes on decoding copies its weights into the order that kernels read, "
        "block by block: more tokens per second for up to 16 streams, the same ids, memory for the weights once more "
        "(at most 1/32 of the machine's for each replica).",
    )
    layer_streaming: bool = setting(
        True, "Compute the first layers of a model while the last ones are still being loaded."
    )
    vllm_environment: str = setting(
        "", "Virtual environment of the `vllm` engine; empty takes what `make engines` builds in a checkout."
    )
    vllm_start_timeout_s: float = setting(
        600.0, "Longest start of a vLLM server on a model's weights.", low=1.0
    )
    simulated_load_s: float = setting(0.0, "`simulated` engine: time to bind.", low=0.0)
    simulated_prefill_s: float = setting(0.0, "`simulated` engine: time to the first token.", low=0.0)
    simulated_token_s: float = setting(0.0, "`simulated` engine: time per further token.", low=0.0)


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """Fetching and converting checkpoints."""

    host: str = setting("127.0.0.1", "Address the ingest service listens on.")
    port: int = setting(0, "Port the ingest service listens on; 0 picks a free one.", low=0, high=65535)
    max_jobs: int = setting(1, "Jobs (fetch, convert, publish) at once.", low=1)
    publish: str = setting(
        "", "s3://bucket/prefix under which every artifact is also stored, as <revision>/; empty: nowhere."
    )
    allow_private_urls: bool = setting(
        False, "Fetch from private and loopback addresses too; never from link-local and metadata services."
    )
    keep_fetched_s: float = setting(
        86400.0, "How long what an unfinished fetch has brought is kept for the next try.", low=0.0
    )


@dataclass(frozen=True, slots=True)
class SourcesConfig:
    """Reading from the network: http(s), S3, the hub. Accounts come from `AWS_*`, `HF_TOKEN` and `HF_ENDPOINT`."""

    connections: int = setting(
        0,
        "Connections that fetch one file at once; 0 takes what `sllm tune io --url` found, else 8.",
        low=0,
        high=64,
    )
    connect_timeout_s: float = setting(5.0, "Longest wait for a connection.", low=0.1, high=300.0)
    stall_timeout_s: float = setting(
        20.0,
        "A connection that brings nothing for so long is given up and tried again.",
        low=0.1,
        high=3600.0,
    )
    ca_file: str = setting(
        "", "PEM file of authorities to trust beside the system's; empty takes AWS_CA_BUNDLE, if set."
    )


@dataclass(frozen=True, slots=True)
class MetadataConfig:
    """The facts that processes share. Accounts come from SLLM_METADATA_USER and SLLM_METADATA_PASSWORD."""

    url: str = setting(
        "sqlite",
        "sqlite[:PATH] (one machine; alone: in the data directory), redis[s]://HOST:PORT[/DB], or "
        "etcd[s]://HOST:PORT[,HOST:PORT...]; the s is for TLS.",
    )
    ca_file: str = setting("", "PEM file of authorities that the server's certificate is checked against.")
    cert_file: str = setting("", "PEM file of our certificate, where the server asks for one.")
    key_file: str = setting("", "PEM file of its key, unless it is in `cert_file`.")
    call_timeout_s: float = setting(
        5.0, "A server that does not answer for so long is taken as away.", low=0.1, high=60.0
    )
    lease_ttl_s: float = setting(
        10.0,
        "How long an agent or orchestrator that is not heard of keeps its place and its claims.",
        low=2.0,
        high=300.0,
    )


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """TLS of all listeners (front, agent, ingest) and of our clients."""

    cert: str = setting(
        "", "PEM file of our certificate and its chain; set: every listener speaks TLS alone."
    )
    key: str = setting("", "PEM file of its key, unless it is in `cert`.")
    ca: str = setting(
        "",
        "PEM file of the authority of all our processes. Set: their certificates are checked against it instead of "
        "the system's, and agents and ingest services ask for one of whoever calls.",
    )


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """Traces, and what the log tells of requests. OpenTelemetry's own `OTEL_*` variables hold too."""

    otlp_endpoint: str = setting(
        "", "Where traces are sent: http[s]://HOST:PORT of an OTLP receiver (extra `otel`); empty: nowhere."
    )
    otlp_protocol: str = setting(
        "grpc", "How: grpc (port 4317 by custom) or http (4318).", choices=("grpc", "http")
    )
    sample_ratio: float = setting(
        1.0,
        "Share of requests that are traced; a caller's `traceparent` decides for its own.",
        low=0.0,
        high=1.0,
    )
    log_requests: bool = setting(False, "One line of the log for each finished request, without its prompt.")
    record_prompts: bool = setting(
        False, "Put prompts into traces and request lines. They may hold what nobody should read."
    )


@dataclass(frozen=True, slots=True)
class Config:
    """All sections; a process reads those that it runs."""

    data_dir: str = setting("~/.local/share/serverlessllm", "Artifacts, metadata, logs and run-time files.")
    log_level: str = setting(
        "info", "Least severe message to log.", choices=("debug", "info", "warning", "error")
    )
    stop_grace_s: float = setting(
        20.0,
        "How long answers under way may go on once the process was told to stop; a second signal cuts them.",
        low=0.0,
        high=3600.0,
    )
    log_format: str = setting(
        "text",
        "Lines of the log: text for people, json (with trace ids) for machines.",
        choices=("text", "json"),
    )
    orchestrator: OrchestratorConfig = field(default_factory=OrchestratorConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    arena: ArenaConfig = field(default_factory=ArenaConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)

    @property
    def data_path(self) -> Path:
        """`data_dir` with `~` expanded."""
        return Path(self.data_dir).expanduser()


_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)?", re.IGNORECASE)
_FACTORS: Final = {
    "b": 1,
    **{f"{u}b": 1000 ** (i + 1) for i, u in enumerate("kmgt")},
    **{f"{u}ib": 1024 ** (i + 1) for i, u in enumerate("kmgt")},
}


def parse_bytes(text: str, *, key: str = "size") -> int:
    """`4GiB` → 4294967296. Raises `ConfigError` naming `key`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{key}: {text!r} is not a size; write e.g. 512MiB or 4GiB", param=key)
    return int(float(match[1]) * _FACTORS[(match[2] or "B").lower()])


def _coerce(value: Any, kind: Any, key: str) -> Any:
    """Turn a YAML value or a string into `kind`; a wrong type is an error that names the key."""
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in {"1", "true", "yes", "on"}:
            return True
        if str(value).lower() in {"0", "false", "no", "off"}:
            return False
    elif kind is int and not isinstance(value, bool):
        if isinstance(value, str) and key.endswith("_bytes"):
            return parse_bytes(value, key=key)
        if isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"-?\d+", value)):
            return int(value)
    elif kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif kind is str and isinstance(value, str):
        return value
    elif kind == tuple[str, ...]:
        if isinstance(value, str):
            return tuple(part for part in value.split(",") if part)
        if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
            return tuple(value)
    name = getattr(kind, "__name__", str(kind))
    raise ConfigError(f"{key}: {value!r} is not of type {name}", param=key)


def _check(value: Any, spec: dataclasses.Field[Any], key: str) -> None:
    low, high, choices = (spec.metadata.get(k) for k in ("low", "high", "choices"))
    if choices and value not in choices:
        raise ConfigError(f"{key}: {value!r} is not one of {', '.join(choices)}", param=key)
    if isinstance(value, float) and value != value:
        raise ConfigError(f"{key}: not a number", param=key)
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{key}: {value} is out of range; must be {bounds}", param=key)


def _unknown(key: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown setting {key!r}{hint}", param=key)


def replace(config: Any, values: Mapping[str, Any], *, prefix: str = "") -> Any:
    """A copy of a config dataclass with `values` (nested by section) checked and applied.

    Raises: ConfigError for an unknown key, a wrong type or a value out of range; `param` is the dotted key.
    """
    hints = get_type_hints(type(config))
    specs = {spec.name: spec for spec in dataclasses.fields(config)}
    changes: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in specs:
            raise _unknown(key, [f"{prefix}{known}" for known in specs])
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{key}: expected a section with keys", param=key)
            changes[name] = replace(getattr(config, name), value, prefix=f"{key}.")
        else:
            changes[name] = _coerce(value, hints[name], key)
            _check(changes[name], specs[name], key)
    return dataclasses.replace(config, **changes)


def settings(config: Any = None, *, prefix: str = "") -> list[tuple[str, dataclasses.Field[Any], Any]]:
    """Every setting as (dotted key, field, default), in declaration order: the source of docs and flags."""
    config = Config() if config is None else config
    found: list[tuple[str, dataclasses.Field[Any], Any]] = []
    for spec in dataclasses.fields(config):
        value = getattr(config, spec.name)
        if dataclasses.is_dataclass(value):
            found += settings(value, prefix=f"{prefix}{spec.name}.")
        else:
            found.append((f"{prefix}{spec.name}", spec, value))
    return found


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """`{"agent.port": 1}` → `{"agent": {"port": 1}}`."""
    tree: dict[str, Any] = {}
    for key, value in dotted.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


RESERVED_ENV: Final = (
    "SLLM_CONFIG",
    "SLLM_API_KEY",
    "SLLM_URL",
    "SLLM_CA",
    "SLLM_SECRET",
    "SLLM_KEYS",
    "SLLM_METADATA_USER",
    "SLLM_METADATA_PASSWORD",
)
"""Environment variables that are read through `environment`, not settings: a flag would show secrets to everybody."""


def environment(name: str, env: Mapping[str, str] | None = None) -> str | None:
    """One of `RESERVED_ENV`, or None when unset or empty."""
    return (os.environ if env is None else env).get(name) or None


def source_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables by which people name their accounts elsewhere: `AWS_*`, `HF_TOKEN`, `HF_ENDPOINT`, `HOME`."""
    known = ("HF_TOKEN", "HF_ENDPOINT", "HOME")
    found = (os.environ if env is None else env).items()
    return {name: value for name, value in found if value and (name.startswith("AWS_") or name in known)}


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    known = {ENV_PREFIX + key.replace(".", "_").upper(): key for key, _, _ in settings()}
    found: dict[str, Any] = {}
    for name, value in env.items():
        if not name.startswith(ENV_PREFIX) or name in RESERVED_ENV:
            continue
        if name not in known:
            raise _unknown(name, list(known))
        found[known[name]] = value
    return nest(found)


def load(
    path: Path | None = None, *, env: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Config:
    """The effective configuration: defaults < file < environment < flags (dotted keys).

    Raises: ConfigError naming the key, or the file when it cannot be read or is not a mapping.
    """
    config = Config()
    if path is not None:
        try:
            data = yaml.safe_load(path.read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read configuration {path}: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"configuration {path}: expected a mapping of sections")
        config = replace(config, data)
    config = replace(config, _from_environment(os.environ if env is None else env))
    return replace(config, nest(flags or {})) if flags else config  # type: ignore[no-any-return]
