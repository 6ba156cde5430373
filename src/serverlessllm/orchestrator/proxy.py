# SPDX-License-Identifier: Apache-2.0
"""The road of one `/v1` request: check, find a replica or hold until one is awake, forward, relay.

Until the first byte of an answer, every failure of an agent or a replica is retried in silence, waking the model
again where needed. Bodies are handed on untouched. A client that leaves cancels its request in every phase: this
coroutine is cancelled, which leaves the wake-up and closes the upstream connection.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from serverlessllm.clock import Clock
from serverlessllm.config import OrchestratorConfig
from serverlessllm.errors import (
    HoldDeadlineError,
    NoAgentError,
    ReplicaGoneError,
    ShuttingDownError,
    SllmError,
    StaleAttemptError,
    UnreachableError,
    UnsupportedFieldError,
    WireError,
    WorkerLostError,
    from_openai,
)
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.admission import TENANT
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.cache_salts import CacheSalts
from serverlessllm.orchestrator.exchange import Exchange
from serverlessllm.orchestrator.formats import check_formats
from serverlessllm.orchestrator.infer_head import InferHead
from serverlessllm.orchestrator.models import Models
from serverlessllm.orchestrator.prompt import Prompt
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.orchestrator.request_id import request_id
from serverlessllm.orchestrator.request_metrics import RequestMetrics
from serverlessllm.orchestrator.routing import Routing
from serverlessllm.orchestrator.upstream import UpstreamResponse
from serverlessllm.orchestrator.wake import Wakes
from serverlessllm.telemetry.timeline import Timeline, TimelineRing
from serverlessllm.types import base_name
from serverlessllm.wire import openai
from serverlessllm.wire.agent import REQUEST_ID_HEADER
from serverlessllm.wire.embeddings import EmbeddingRequest, parse_embeddings
from serverlessllm.wire.openai import Endpoint
from serverlessllm.wire.sse import StreamRelay

T = TypeVar("T")

COMMENT_EVERY_S: Final = 0.5
RETRY_PAUSE_S: Final = 0.05
NUM_QUICK_RETRIES: Final = 3
"""A replica that was unbound is replaced at once so often; after that with a pause between."""
MAX_ANSWER_BYTES: Final = 64 << 20
MAX_ERROR_BYTES: Final = 1 << 20
UNBOUND: Final = (ReplicaGoneError, StaleAttemptError)
"""Nothing failed: the replica made room for another model meanwhile. Only the hold deadline bounds these."""
DROPS_REPLICA: Final = (*UNBOUND, ShuttingDownError, UnreachableError)
"""After these the replica is not asked again: the model is woken anew."""


class _TryAgain(Exception):  # noqa: N818  (control flow, not an error of ours)
    """Nothing reached the client yet, and another try may succeed; `cause` says why this one did not."""

    def __init__(self, cause: SllmError) -> None:
        super().__init__(cause.message)
        self.cause = cause


class Proxy:
    """Serves `/v1/chat/completions`, `/v1/completions` and `/v1/embeddings`."""

    def __init__(
        self,
        models: Models,
        agents: Agents,
        table: ReplicaTable,
        routing: Routing,
        wakes: Wakes,
        ring: TimelineRing,
        metrics: RequestMetrics,
        config: OrchestratorConfig,
        secret: str,
        clock: Clock,
    ) -> None:
        self._models = models
        self._agents = agents
        self._table = table
        self._routing = routing
        self._wakes = wakes
        self._ring = ring
        self._metrics = metrics
        self._config = config
        self._salts = CacheSalts(secret)
        self._head = InferHead(secret)
        self._clock = clock

    async def serve(self, request: web.Request, body: bytes, endpoint: Endpoint) -> web.StreamResponse:
        """Answer one request whose admission was checked. Raises SllmError for a request that is not accepted."""
        arrived_s = self._clock.monotonic_s()
        parsed = parse_embeddings(body) if endpoint == "embeddings" else openai.parse(endpoint, body)
        if not isinstance(parsed, EmbeddingRequest):
            await check_formats(parsed)
        record = self._models.get(base_name(parsed.model))
        if record.name != parsed.model and endpoint == "embeddings":
            raise UnsupportedFieldError(
                "model: adapters make no embeddings; name the base model", param="model"
            )
        adapter = self._models.get(parsed.model) if record.name != parsed.model else None
        timeline = Timeline(
            request_id=self._request_id(request, endpoint),
            model=parsed.model,
            endpoint=endpoint,
            arrived_s=self._clock.wall_s(),
            is_stream=parsed.is_stream,
            tenant=request[TENANT],
        )
        exchange = Exchange(request, body, timeline, arrived_s, self._clock)
        self._ring.start(timeline)
        try:
            if adapter is not None:
                adapter = await self._settled(adapter.name)
            prompt = Prompt(parsed, self._salts.of(timeline.tenant), (adapter and adapter.revision) or "")
            return await self._answer(exchange, record, endpoint, prompt, adapter)
        except SllmError as error:
            return await exchange.fail(error)
        except ConnectionResetError:
            return exchange.response  # the client left between two writes
        finally:
            exchange.cancelled()  # no effect on one that has ended
            self._ring.finish(timeline)
            self._metrics.finished(timeline)

    async def _settled(self, adapter: str) -> ModelRecord:
        """An adapter's record once its bytes are there. Raises: ModelNotFoundError, HoldDeadlineError."""
        try:
            async with asyncio.timeout(self._config.hold_timeout_s):
                return await self._models.settled(adapter, lambda text: None)
        except TimeoutError as error:
            raise HoldDeadlineError(f"adapter {adapter} was not registered in time") from error

    def _request_id(self, request: web.Request, endpoint: Endpoint) -> str:
        chosen = request_id(request.headers.get(REQUEST_ID_HEADER), endpoint)
        running = self._ring.get(chosen)
        if running is not None and running.state in ("held", "running"):
            return request_id(None, endpoint)  # an id names one request: the later twin gets another
        return chosen

    async def _answer(
        self,
        exchange: Exchange,
        record: ModelRecord,
        endpoint: Endpoint,
        prompt: Prompt,
        adapter: ModelRecord | None,
    ) -> web.StreamResponse:
        seed = random.getrandbits(63)
        timeline, failed = exchange.timeline, list[str]()
        self._routing.note_call(record)
        while True:
            replica = self._routing.pick(record, prompt, timeline.request_id, failed)
            if replica is None:
                replica = await self._hold(exchange, record.name, prompt)
            timeline.state, timeline.revision, timeline.attempt = "running", replica.revision, replica.attempt
            timeline.agent_id = replica.link.agent_id
            head = self._head.lines(
                timeline, replica, endpoint, seed=seed, cache_salt=prompt.salt, adapter=adapter
            )
            try:
                return await self._ask(exchange, replica, head)
            except _TryAgain as again:
                cause = again.cause
            self._metrics.retried(timeline, cause)
            if isinstance(cause, DROPS_REPLICA):
                self._table.drop(replica)
            if isinstance(cause, UNBOUND):
                if exchange.waited_s >= self._config.hold_timeout_s:
                    raise self._late(exchange)
            else:
                failed.append(replica.link.agent_id)
                replica.num_failures += 1
            if len(failed) > self._config.max_retries:
                raise WorkerLostError(
                    f"{record.name} failed {len(failed)} times before its first token; last: {cause.message}"
                )
            if failed or timeline.num_retries > NUM_QUICK_RETRIES:
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _ask(self, exchange: Exchange, replica: Replica, head: bytes) -> web.StreamResponse:
        """`_try`, counted as in flight at the replica, and learned from."""
        replica.num_inflight += 1
        try:
            response = await self._try(exchange, replica, head)
            replica.num_failures = 0
            return response
        finally:
            replica.num_inflight -= 1
            replica.used_s = self._clock.monotonic_s()
            self._routing.learn(replica, exchange.timeline)

    async def _hold(self, exchange: Exchange, model: str, prompt: Prompt) -> Replica:
        """Wait until the model is awake. Raises its error, or HoldDeadlineError and NoAgentError when it is late.

        Bytes that arrive from elsewhere put the deadline off: a large model takes longer, a stalled one does not.
        """
        exchange.timeline.state = "held"
        joined_s = self._clock.monotonic_s()
        with self._wakes.hold(model, prompt.num_tokens) as wake:
            num_progress = 0
            while not await wake.settled(self._pause_s(exchange)):
                if wake.num_progress != num_progress:
                    num_progress = wake.num_progress
                    exchange.be_patient()
                if exchange.waited_s >= self._config.hold_timeout_s:
                    raise self._late(exchange)
                if exchange.is_stream:
                    await exchange.comment(self._wakes.progress(wake))
            woken = wake.result()
        if woken.load is not None:
            waited_ms = (self._clock.monotonic_s() - joined_s) * 1e3
            timeline = exchange.timeline
            timeline.note_wake(woken.load, waited_ms)
            timeline.place_ms = min(woken.place_ms, timeline.queue_ms)
            timeline.queue_ms -= timeline.place_ms
        return woken.replica

    def _pause_s(self, exchange: Exchange) -> float:
        """Until the next comment is due, or the deadline."""
        left_s = max(0.0, self._config.hold_timeout_s - exchange.waited_s)
        if not exchange.is_stream:
            return left_s
        if exchange.is_open:
            return min(left_s, COMMENT_EVERY_S)
        return min(left_s, max(0.0, self._config.hold_silently_s - exchange.elapsed_s))

    def _late(self, exchange: Exchange) -> SllmError:
        timeout_s, model = self._config.hold_timeout_s, exchange.timeline.model
        if not self._agents.alive():
            return NoAgentError(
                f"no agent that could run {model} was alive within {timeout_s:g} s; start one"
            )
        return HoldDeadlineError(f"{model} did not wake within {timeout_s:g} s (orchestrator.hold_timeout_s)")

    async def _try(self, exchange: Exchange, replica: Replica, head: bytes) -> web.StreamResponse:
        """Forward to one replica. Raises _TryAgain while nothing of an answer reached the client."""
        post = replica.link.upstream.post("/infer", head, exchange.body)
        try:
            is_told = exchange.is_open or (exchange.is_stream and replica.is_loading)
            response = await (self._with_comments(exchange, replica.model, post) if is_told else post)
        except (UnreachableError, WireError) as error:
            raise _TryAgain(error) from error
        try:
            if response.status != 200:
                return await self._refused(exchange, response)
            if exchange.is_stream:
                return await self._relay(exchange, response)
            try:
                body = await response.read_all(MAX_ANSWER_BYTES)
            except UnreachableError as error:
                raise _TryAgain(error) from error
            return exchange.whole(body, response.headers)
        finally:
            response.close()

    async def _with_comments(self, exchange: Exchange, model: str, work: Awaitable[T]) -> T:
        """Await `work`, telling a stream what is done for it; one that has no headers yet, after a while."""
        task = asyncio.ensure_future(work)
        silent_s = max(0.0, self._config.hold_silently_s - exchange.elapsed_s)
        pause_s = COMMENT_EVERY_S if exchange.is_open else silent_s
        try:
            while not (await asyncio.wait({task}, timeout=pause_s))[0]:
                await exchange.comment(self._wakes.loading(model) or "prefill")
                pause_s = COMMENT_EVERY_S
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _refused(self, exchange: Exchange, response: UpstreamResponse) -> web.StreamResponse:
        try:
            body = await response.read_all(MAX_ERROR_BYTES)
            error = from_openai(msgspec.json.decode(body), status=response.status)
        except msgspec.MsgspecError:
            error = WorkerLostError(f"the agent answered HTTP {response.status} without an error body")
        except (UnreachableError, WireError) as cut:
            raise _TryAgain(cut) from cut
        if response.status >= 500 or isinstance(error, DROPS_REPLICA):
            raise _TryAgain(error)
        return await exchange.refuse(response.status, body, error, response.headers.get("retry-after", ""))

    async def _relay(self, exchange: Exchange, response: UpstreamResponse) -> web.StreamResponse:
        """Pass an agent's events on; a cut before the first one is retried, after it told to the client."""
        relay = StreamRelay()
        has_begun = False
        try:
            while data := await response.read():
                events = relay.feed(data)
                if not events:
                    continue
                if not has_begun:
                    has_begun = True
                    exchange.note_first_token(response.headers)
                self._metrics.progressed(exchange.timeline, relay.seq)
                if relay.is_done:
                    await exchange.finish_stream(events)
                    await response.drain()
                    return exchange.response
                await exchange.forward(events)
            cut: SllmError = UnreachableError("the agent ended the stream before [DONE]", source="agent")
        except (UnreachableError, WireError) as error:
            cut = error
        if not has_begun:
            raise _TryAgain(cut)
        return await exchange.fail(
            WorkerLostError(f"the stream broke after {relay.seq} tokens: {cut.message}", source=cut.source)
        )
