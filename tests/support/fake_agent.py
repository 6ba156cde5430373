# SPDX-License-Identifier: Apache-2.0
"""A double of the agent's border: a real HTTP server whose answers, delays and deaths a test scripts.

It stands in for another process, not for code of ours: the orchestrator's clients speak to it over sockets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from serverlessllm.app.http_server import HttpServer, listen, start_http
from serverlessllm.errors import CapacityError, ReplicaGoneError, SllmError
from serverlessllm.wire import WIRE_VERSION, sse
from serverlessllm.wire.agent import (
    AGENT_TIMING_HEADER,
    SECRET_HEADER,
    AgentStatus,
    InferHeaders,
    InferTiming,
    LoadProgressStatus,
    LoadRequest,
    LoadResult,
    ReplicaStatus,
    UnloadRequest,
    UnloadResult,
)
from serverlessllm.wire.events import (
    AgentEvent,
    Heartbeat,
    LoadEnded,
    LoadProgressed,
    ReplicaChanged,
    Snapshot,
)

SECRET: Final = "test-secret"
WORDS: Final = ("A", " cold", " model", " answers", ".")
TEXT: Final = "".join(WORDS)
T = TypeVar("T")


def recorded_stream(request_id: str) -> bytes:
    """What an agent sends for a streamed chat: the prompt's digest, five tokens, `[DONE]`."""
    parts = [sse.PROMPT_COMMENT + b"0123abcd\n"]
    for seq, word in enumerate(WORDS, 1):
        delta = {"content": word} | ({"role": "assistant"} if seq == 1 else {})
        choice = {
            "index": 0,
            "delta": delta,
            "finish_reason": "stop" if seq == len(WORDS) else None,
            "token_ids": [seq],
        }
        chunk = {
            "id": request_id,
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [choice],
        }
        parts.append(sse.event(seq, msgspec.json.encode(chunk)))
    return b"".join(parts) + sse.DONE


def recorded_answer(request_id: str) -> bytes:
    """The same answer without streaming."""
    message = {"role": "assistant", "content": TEXT}
    body = {
        "id": request_id,
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "token_ids": [1, 2, 3, 4, 5]}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }
    return msgspec.json.encode(body)


@dataclass
class Plan:
    """How one `/infer` is answered: `refusal` instead of an answer, `cut_at` bytes of it, or a wait before it."""

    refusal: SllmError | None = None
    cut_at: int | None = None
    piece_bytes: int | None = None
    hold_head: asyncio.Event | None = None
    hold_tail: asyncio.Event | None = None


@dataclass
class FakeAgent:
    """`infer_plans` and `load_errors` are used up one per call; then all goes well."""

    name: str = "agent-1"
    boot_id: str = "boot-1"
    budget_bytes: int = 1 << 30
    engines: tuple[str, ...] = ("torch", "simulated")
    infer_plans: deque[Plan] = field(default_factory=deque)
    load_errors: deque[SllmError] = field(default_factory=deque)
    unload_answers: deque[bool] = field(default_factory=deque)
    max_replicas: int = 100
    hold_load: asyncio.Event | None = None
    loads: list[LoadRequest] = field(default_factory=list)
    unloads: list[UnloadRequest] = field(default_factory=list)
    infers: list[tuple[InferHeaders, bytes]] = field(default_factory=list)
    num_cancelled_loads: int = 0
    num_cancelled_infers: int = 0
    replicas: dict[str, ReplicaStatus] = field(default_factory=dict)
    running_loads: list[LoadProgressStatus] = field(default_factory=list)
    _streams: set[asyncio.Queue[AgentEvent]] = field(default_factory=set)
    _server: HttpServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return self._server.url

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.port

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/load", self._load)
        app.router.add_post("/unload", self._unload)
        app.router.add_post("/infer", self._infer)
        app.router.add_get("/events", self._events)
        self._server = await start_http(app, listen("127.0.0.1", port, key="port"))

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()
            self._server = None

    def status(self) -> AgentStatus:
        return AgentStatus(
            agent_id=self.name,
            boot_id=self.boot_id,
            wire_version=WIRE_VERSION,
            engines=list(self.engines),
            arena_budget_bytes=self.budget_bytes,
            arena_used_bytes=0,
            arena_location="/dev/shm",
            replicas=list(self.replicas.values()),
            regions=[],
            loads=self.running_loads,
            bandwidths=[],
            slots={},
        )

    def tell(self, event: AgentEvent) -> None:
        """Send an event to whoever follows."""
        for stream in self._streams:
            stream.put_nowait(event)

    def have_replica(self, model: str, revision: str, attempt: int, state: str = "ready") -> None:
        """Have the replica, or lose it (state `gone`), and say so."""
        replica = ReplicaStatus(
            model=model,
            revision=revision,
            attempt=attempt,
            state="ready" if state == "ready" else "gone",
            engine="torch",
            device_set="cpu",
            pid=1,
            num_running=0,
            num_queued=0,
            idle_s=0.0,
        )
        if state == "gone":
            self.replicas.pop(model, None)
        else:
            self.replicas[model] = replica
        self.tell(ReplicaChanged(replica=replica))

    async def _load(self, request: web.Request) -> web.Response:
        load = await _decode(request, LoadRequest)
        self.loads.append(load)
        if self.load_errors:
            return _refuse(self.load_errors.popleft())
        if len(self.replicas.keys() - {load.model}) >= self.max_replicas:
            return _refuse(CapacityError("every replica is busy", source="agent"))
        progress = LoadProgressStatus(load.model, load.revision, "read", 41, 100, 0.8)
        self.tell(LoadProgressed(load=progress))
        error: str | None = "cancelled"
        try:
            if self.hold_load is not None:
                await self.hold_load.wait()
            error = None
        except asyncio.CancelledError:
            self.num_cancelled_loads += 1
            raise
        finally:
            self.tell(LoadEnded(load.model, load.revision, error))
        self.have_replica(load.model, load.revision, load.attempt)
        result = LoadResult(
            model=load.model,
            revision=load.revision,
            attempt=load.attempt,
            start="cold",
            tier="nvme",
            nbytes=100,
            fetch_ms=0.0,
            read_ms=4.0,
            bind_ms=2.0,
            gbps=1.0,
            possible_gbps=2.0,
            limiting="nvme",
        )
        return _json(result)

    async def _unload(self, request: web.Request) -> web.Response:
        unload = await _decode(request, UnloadRequest)
        self.unloads.append(unload)
        is_unloaded = self.unload_answers.popleft() if self.unload_answers else unload.model in self.replicas
        if is_unloaded:
            self.have_replica(unload.model, unload.revision, unload.attempt, "gone")
        return _json(UnloadResult(unloaded=is_unloaded))

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        headers = InferHeaders.decode(request.headers)
        assert request.headers[SECRET_HEADER] == SECRET
        body = await request.read()
        self.infers.append((headers, body))
        plan = self.infer_plans.popleft() if self.infer_plans else Plan()
        try:
            return await self._follow(plan, request, headers, body)
        except asyncio.CancelledError:
            self.num_cancelled_infers += 1
            raise

    async def _follow(
        self, plan: Plan, request: web.Request, headers: InferHeaders, body: bytes
    ) -> web.StreamResponse:
        if plan.hold_head is not None:
            await plan.hold_head.wait()
        if plan.refusal is not None:
            return _refuse(plan.refusal)
        if headers.model not in self.replicas:
            return _refuse(ReplicaGoneError(f"{headers.model} is not bound here", source="agent"))
        is_stream = bool(msgspec.json.decode(body).get("stream"))
        payload = recorded_stream(headers.request_id) if is_stream else recorded_answer(headers.request_id)
        timing = msgspec.json.encode(InferTiming(queue_ms=1.0, prefill_ms=2.0, prompt_tokens=3)).decode()
        kind = "text/event-stream" if is_stream else "application/json"
        response = web.StreamResponse(headers={"Content-Type": kind, AGENT_TIMING_HEADER: timing})
        response.enable_chunked_encoding()
        await response.prepare(request)
        end = len(payload) if plan.cut_at is None else plan.cut_at
        step = plan.piece_bytes or max(1, end)
        for at in range(0, end, step):
            await response.write(payload[at : min(at + step, end)])
            if plan.hold_tail is not None:
                await plan.hold_tail.wait()
        if plan.cut_at is not None and request.transport is not None:
            request.transport.close()
            return response
        await response.write_eof()
        return response

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        stream: asyncio.Queue[AgentEvent] = asyncio.Queue()
        stream.put_nowait(Snapshot(status=self.status()))
        self._streams.add(stream)
        seq = 0
        try:
            while True:
                try:
                    event = await asyncio.wait_for(stream.get(), 1.0)
                except TimeoutError:
                    event = Heartbeat(boot_id=self.boot_id)
                seq += 1
                await response.write(sse.event(seq, msgspec.json.encode(event)))
        finally:
            self._streams.discard(stream)


async def _decode(request: web.Request, kind: type[T]) -> T:
    return msgspec.json.decode(await request.read(), type=kind)


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _refuse(error: SllmError) -> web.Response:
    response = _json(error.as_openai(), error.http_status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(round(error.retry_after_s))
    return response
