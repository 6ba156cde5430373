# SPDX-License-Identifier: Apache-2.0
"""The agent: all that runs on one node, and its life from `start` to `stop`.

Owns the arena, the loader, the slots, the parsed texts, the replicas and the event log; each knows its own work,
this only puts them together. Knows no HTTP (`api.py`) and never imports torch: engines run in processes of their own.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from blake3 import blake3

from serverlessllm.agent.disk import NodeDisk, revisions_on_disk
from serverlessllm.agent.embedding import Embeddings
from serverlessllm.agent.engines import offered_engines
from serverlessllm.agent.event_log import EventLog
from serverlessllm.agent.inference import Inference
from serverlessllm.agent.load import NodeParts
from serverlessllm.agent.load_checks import max_num_ranks
from serverlessllm.agent.load_messages import bandwidths
from serverlessllm.agent.loads import Loads
from serverlessllm.agent.migrations import Migrations
from serverlessllm.agent.node_gauges import NodeGauges
from serverlessllm.agent.node_traces import NodeTraces
from serverlessllm.agent.open_answers import OpenAnswers
from serverlessllm.agent.prepared import PreparedInference
from serverlessllm.agent.replica import Replica, ReplicaKey
from serverlessllm.agent.reporter import Reporter
from serverlessllm.agent.running_answer import RunningAnswer
from serverlessllm.agent.running_answers import RunningAnswers
from serverlessllm.agent.standby import Standbys
from serverlessllm.agent.stopped_workers import StoppedWorkers
from serverlessllm.arena.arena import Arena
from serverlessllm.arena.prefault import Prefaulter
from serverlessllm.clock import Clock
from serverlessllm.config import Config, source_environment
from serverlessllm.engine.slots import SlotPool
from serverlessllm.errors import (
    ConflictError,
    InvalidRequestError,
    ReplicaGoneError,
    ShuttingDownError,
    SllmError,
)
from serverlessllm.loader.disk.inventory import DiskInventory
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.io_settings import choose_connections
from serverlessllm.loader.loader import Loader
from serverlessllm.loader.manifest import origin_opener
from serverlessllm.node_profile import NodeProfile
from serverlessllm.sdk.tls import ClientTls
from serverlessllm.sources.access import Access
from serverlessllm.telemetry.metrics import AgentMetrics
from serverlessllm.telemetry.spans import SpanSink
from serverlessllm.text.tokenizer import TextCache
from serverlessllm.types import EngineKind, check_model_name, is_revision, mint_id
from serverlessllm.wire import WIRE_VERSION
from serverlessllm.wire.agent import (
    AgentStatus,
    InferHeaders,
    LoadRequest,
    LoadResult,
    PrefaultStatus,
    RegionStatus,
    UnloadRequest,
    UnloadResult,
)
from serverlessllm.wire.events import HEARTBEAT_S, SlotsChanged, Snapshot
from serverlessllm.wire.resume import ResumeHead

MAX_ENCODINGS: Final = 2
"""Prompts encoded at once: each keeps a core busy, and more would only delay what the engines compute."""
INSTALL_ADVICE: Final = {
    "torch": "; pip install 'serverlessllm[engine]' there",
    "vllm": "; run `make engines` or set engine.vllm_environment",
}
IDLE_RECHECK_S: Final = 0.5
"""How often to look whether the node has become idle, for work that can wait."""

_log = logging.getLogger(__name__)


class Agent:
    """`start`, then `load`, `infer`, `unload`, `status`, then `stop`. For one event loop.

    `agent_id` stays the same over restarts on one data directory, `boot_id` does not.
    """

    def __init__(
        self,
        config: Config,
        secret: str,
        clock: Clock,
        *,
        engines: Sequence[EngineKind] | None = None,
        spans: SpanSink | None = None,
    ) -> None:
        """`secret` is the cluster's. `engines` that may be used here; None takes `engine.kinds`.

        `spans` takes our part of traces.
        """
        self.config = config
        self.secret = secret
        self.agent_id = _agent_id(config.data_path)
        self.boot_id = mint_id("boot")
        self.engines = list(offered_engines(config) if engines is None else engines)
        self.metrics = AgentMetrics()
        self.traces = NodeTraces(spans, self.agent_id, clock)
        self.events = EventLog(self.boot_id, clock)
        self.answers = RunningAnswers(config.agent.orphan_grace_s, self.metrics)
        self.migrations = Migrations(
            self.answers, self.agent_id, secret, self.metrics, ClientTls(config.tls), self.traces.moved
        )
        self.standbys = Standbys(self.answers, self.metrics, self._begin_prepared)
        self.is_running = False
        self.open_answers = OpenAnswers()
        self._is_draining = False
        self._clock = clock
        self._encoding = asyncio.Semaphore(MAX_ENCODINGS)
        self._tasks: list[asyncio.Task[None]] = []
        self._prefault: Prefaulter
        self._gauges: NodeGauges
        self.disk: NodeDisk
        self._parts: NodeParts
        self._loads: Loads

    async def start(self) -> None:
        """Open the arena, start the engines' zygotes; slots are primed in the background.

        Raises: ConflictError when another agent has the data directory; ConfigError; CapacityError.
        """
        config, data_path = self.config, self.config.data_path
        access = Access.from_config(
            config.sources, source_environment(), allow_private_urls=config.ingest.allow_private_urls
        )
        arena = await asyncio.to_thread(Arena.open, data_path / "arena", config.arena, clock=self._clock)
        io_profile = NodeProfile(data_path).read().io
        slots = SlotPool(data_path / "run", config.engine, self.engines, arena.path)
        try:
            await slots.start()
        except BaseException:
            arena.close(keep=True)
            raise
        nvme = NvmeTier(data_path / "artifacts", config.loader.nvme_budget_bytes, self._clock)
        self._parts = NodeParts(
            config=config,
            clock=self._clock,
            arena=arena,
            loader=Loader(
                arena,
                nvme,
                config.loader,
                self._clock,
                io_profile=io_profile,
                open_origin=origin_opener(access),
                num_fetch_workers=choose_connections(config.sources, io_profile),
                on_corrupt=lambda tier, number: self.metrics.corrupt_shards.labels(tier).inc(number),
            ),
            slots=slots,
            texts=TextCache(config.agent.tokenizer_cache_size),
            reporter=Reporter(self.events, self.metrics, arena, self._clock),
            traces=self.traces,
        )
        self._loads = Loads(self._parts)
        self._gauges = NodeGauges(self.metrics, arena, nvme)
        self.disk = NodeDisk(
            self.agent_id, DiskInventory(data_path, nvme), self._parts.loader, self._bound_revisions
        )
        self._prefault = Prefaulter(
            arena, min(config.arena.prefault_bytes, arena.budget_bytes), is_busy=self._is_busy
        )
        self._prefault.start()
        self._parts.reporter.regions_changed()
        self._tasks = [
            asyncio.create_task(self._ready_adopted(arena.adopted)),
            asyncio.create_task(self._watch_slots()),
            asyncio.create_task(StoppedWorkers(self._worker_pids, config.agent.stopped_worker_grace_s).run()),
        ]
        self.is_running = True

    async def drain(self) -> None:
        """Take no new model, end loads, let every answer be written to its end.

        Who waits in a replica's queue gets ReplicaGoneError, to be placed elsewhere.
        """
        self._is_draining = True
        await self._loads.drain()
        await self.open_answers.quiet.wait()

    async def stop(self) -> None:
        """End loads, replicas and engines, and close the arena (its weights stay if `arena.keep_on_stop`)."""
        if not self.is_running:
            return
        self.is_running = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.migrations.stop()
        await self.standbys.stop()
        await self.answers.stop()
        await asyncio.to_thread(self._prefault.stop)
        await self._loads.stop()
        self._parts.reporter.close()
        self.events.close()
        await self._parts.slots.stop()
        await self._parts.loader.close()
        await asyncio.to_thread(self._parts.arena.close, keep=self.config.arena.keep_on_stop)

    async def load(self, request: LoadRequest) -> LoadResult:
        """`POST /load`; see `Loads.load`."""
        self._check_running(is_new=True)
        check_model_name(request.model)
        if not is_revision(request.revision):
            raise InvalidRequestError("revision: expected 32 hex digits", param="revision")
        engine = next((kind for kind in self.engines if kind == request.engine), None)
        if engine is None:
            raise InvalidRequestError(
                f"engine: {request.engine[:40]!r} does not run here; this node has {', '.join(self.engines)}"
                + INSTALL_ADVICE.get(request.engine, ""),
                param="engine",
            )
        return await self._loads.load(request, engine)

    async def unload(self, request: UnloadRequest) -> UnloadResult:
        """`POST /unload`: finish what runs (or refuse, with `only_idle`), unbind, free the bytes if asked to.

        A load under way is stopped. Raises: StaleAttemptError.
        """
        self._check_running()
        key = ReplicaKey(request.model, request.revision)
        replica = self._loads.replicas.get(key)
        if replica is not None:
            self._loads.fence(replica, request.attempt)
            if request.only_idle and not replica.is_idle:
                return UnloadResult(unloaded=False)
            replica.start_draining()
            await self._loads.stop_load(key)
            await replica.drain()
        is_dropped = request.drop_bytes and self._drop_bytes(request.revision)
        return UnloadResult(unloaded=replica is not None or is_dropped)

    def infer(self, headers: InferHeaders, body: bytes, resumed: ResumeHead | None = None) -> Inference:
        """`POST /infer`: the request at its replica, not started yet; `resumed` where its answer was begun elsewhere.

        Raises: ReplicaGoneError when no replica is ready here; InvalidRequestError, UnsupportedFieldError;
        CannotResumeError.
        """
        return Inference(headers, body, self._replica(headers), self._clock, self._encoding, resumed)

    def prepare(self, headers: InferHeaders, body: bytes) -> PreparedInference:
        """A request that runs elsewhere, to be prepared at its replica. Raises as `infer`."""
        return PreparedInference(headers, body, self._replica(headers), self._clock, self._encoding)

    def _begin_prepared(self, inference: PreparedInference) -> None:
        answer = self.answers.start(inference, lambda ended: self.ended(inference, ended))
        self.answers.expect_reader(answer)

    def embed(self, headers: InferHeaders, body: bytes) -> Embeddings:
        """`POST /infer` for embeddings. Raises: ReplicaGoneError, InvalidRequestError."""
        return Embeddings(headers, body, self._replica(headers), self._clock, self._encoding)

    def _replica(self, headers: InferHeaders) -> Replica:
        self._check_running()
        replica = self._loads.replicas.get(ReplicaKey(headers.model, headers.revision))
        if replica is None:
            raise ReplicaGoneError(
                f"model {headers.model} has no replica here; place the request again", source="agent"
            )
        return replica

    def ended(self, inference: Inference, work: Inference | RunningAnswer) -> None:
        """A request's run here is over: count what it generated, and tell its trace."""
        self.traces.inferred(inference, work.num_sampled)
        self.metrics.generated_tokens.labels(work.headers.model).inc(work.num_sampled)

    def status(self) -> AgentStatus:
        """`GET /status`."""
        parts = self._parts
        replicas = [replica for replica in self._loads.replicas.values() if replica.state != "gone"]
        return AgentStatus(
            agent_id=self.agent_id,
            boot_id=self.boot_id,
            wire_version=WIRE_VERSION,
            engines=list(self.engines),
            arena_budget_bytes=parts.arena.budget_bytes,
            arena_used_bytes=parts.arena.used_bytes,
            arena_location=parts.arena.location,
            replicas=[replica.status() for replica in replicas],
            regions=[
                RegionStatus(entry.revision, entry.nbytes, entry.complete, entry.pinned, entry.verified)
                for entry in parts.arena.entries()
            ],
            loads=parts.reporter.loads,
            bandwidths=bandwidths(parts.loader),
            slots=self._slots(),
            dtypes=self._dtypes(),
            prefault=self._prefault_status(),
            max_num_ranks=max_num_ranks(self.config.engine),
            max_replicas=self.config.engine.max_replicas,
            on_disk=revisions_on_disk(self.config.data_path / "artifacts"),
        )

    def snapshot(self) -> Snapshot:
        """The first event of `/events`."""
        return Snapshot(self.status(), self._loads.kv_chunks())

    async def render_metrics(self) -> bytes:
        """`GET /metrics`."""
        return await self._gauges.render(self._slots())

    def _slots(self) -> dict[str, int]:
        """`engine.state` → number."""
        counts: dict[str, int] = {}
        for engine, state in self._parts.slots.states().items():
            counts[f"{engine}.primed"] = state.num_primed
            counts[f"{engine}.priming"] = state.num_priming
            counts[f"{engine}.bound"] = state.num_bound
        return counts

    def _is_busy(self) -> bool:
        """Whether a load, a bind, a request or a slot's birth needs the machine. Called from another thread."""
        replicas = list(self._loads.replicas.values())
        if any(not replica.is_idle for replica in replicas):
            return True
        return any(state.num_priming for state in self._parts.slots.states().values())

    def _worker_pids(self) -> list[int]:
        """Of every replica that has a worker."""
        pids = [replica.pid for replica in self._loads.replicas.values()]
        return [pid for pid in pids if pid is not None]

    def _bound_revisions(self) -> list[str]:
        """Of every replica that is not gone."""
        replicas = self._loads.replicas.values()
        return [replica.key.revision for replica in replicas if replica.state != "gone"]

    def _dtypes(self) -> dict[str, str]:
        """Engine → compute dtype, where it is known."""
        states = self._parts.slots.states()
        return {engine: state.dtype for engine, state in states.items() if state.dtype is not None}

    async def _watch_slots(self) -> None:
        """Tell followers of slots that come and go; once a heartbeat is often enough for who places by them."""
        while True:
            self._parts.reporter.slots_seen(SlotsChanged(self._slots(), self._dtypes()))
            await asyncio.sleep(HEARTBEAT_S)

    def _drop_bytes(self, revision: str) -> bool:
        """Free a region, unless it is not here or another model's replica uses it."""
        if self._parts.arena.get(revision) is None:
            return False  # not here, or still being written
        try:
            self._parts.arena.release(revision)
        except ConflictError:
            return False
        self._parts.reporter.region_dropped(revision)
        return True

    def _prefault_status(self) -> PrefaultStatus:
        status = self._prefault.status()
        return PrefaultStatus(status.state, status.touched_bytes, status.target_bytes, status.bytes_per_s)

    async def _ready_adopted(self, revisions: Sequence[str]) -> None:
        """Make what an earlier agent left in DRAM ready to wake: its texts at once, its bytes checked when idle."""
        await self._warm_texts(revisions)
        for revision in revisions:
            while self._is_busy():  # noqa: ASYNC110 - whether it is, is asked of many parts; none tells
                await asyncio.sleep(IDLE_RECHECK_S)
            try:
                await self._loads.check_bytes(self.config.data_path / "artifacts" / revision, revision)
            except (SllmError, OSError) as error:
                _log.warning("adopted revision %s cannot be checked: %s", revision, error)
            self._parts.reporter.regions_changed()

    async def _warm_texts(self, revisions: Sequence[str]) -> None:
        """Parse the tokenizers of adopted weights, so that their first wake does not."""
        for revision in revisions[: self.config.agent.tokenizer_cache_size]:
            try:
                await self._loads.warm_text(self.config.data_path / "artifacts" / revision, revision)
            except (SllmError, OSError) as error:
                _log.warning("adopted revision %s has no usable text: %s", revision, error)

    def _check_running(self, *, is_new: bool = False) -> None:
        if not self.is_running or (is_new and self._is_draining):
            raise ShuttingDownError("the agent is stopping; ask another", source="agent")


def _agent_id(data_path: Path) -> str:
    """One per host and data directory."""
    host = socket.gethostname()
    return f"agent-{blake3(f'{host}:{data_path.absolute()}'.encode()).hexdigest()[:16]}"
