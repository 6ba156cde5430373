# SPDX-License-Identifier: Apache-2.0
"""The road of one admitted request: find a replica or hold until one is awake, forward, relay; and again.

    what failed                        what is done
    before the first token             tried again in silence, also elsewhere, `max_retries` times
    a stream's connection, afterwards  attached to the same run at the same agent, from the last event on
    its agent or worker, or silence    the run is ended, and the next one continues from what the client has
    `max_resumes` times                the stream ends with an error

Runs are numbered, and what is asked to end cannot come back (`wire/run_name.py`). Knows no admission.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from aiohttp import web

from serverlessllm.clock import Clock
from serverlessllm.config import OrchestratorConfig
from serverlessllm.errors import (
    AnswerGoneError,
    CannotResumeError,
    QueueFullError,
    ReplicaGoneError,
    ShuttingDownError,
    SllmError,
    StaleAttemptError,
    UnreachableError,
    WireError,
    WorkerLostError,
    from_openai,
)
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.breakers import Breakers
from serverlessllm.orchestrator.call import Call, Moved, TryAgain
from serverlessllm.orchestrator.handover import Handovers
from serverlessllm.orchestrator.holding import Holding
from serverlessllm.orchestrator.infer_head import InferHead
from serverlessllm.orchestrator.reattach import FoundRun, Reattach
from serverlessllm.orchestrator.relay import Relay
from serverlessllm.orchestrator.replicas import Replica, ReplicaTable
from serverlessllm.orchestrator.request_metrics import RequestMetrics
from serverlessllm.orchestrator.routing import Routing
from serverlessllm.orchestrator.runs import Runs
from serverlessllm.orchestrator.stream_record import StreamRecord
from serverlessllm.orchestrator.upstream import JSON, UpstreamResponse
from serverlessllm.wire import sse
from serverlessllm.wire.resume import CONTENT_TYPE, encode_resume
from serverlessllm.wire.run_name import RunName

RETRY_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 2.0
NUM_QUICK_RETRIES: Final = 3
"""A replica that was unbound is replaced at once so often; after that with a pause between."""
MAX_ANSWER_BYTES: Final = 64 << 20
MAX_ERROR_BYTES: Final = 1 << 20
UNBOUND: Final = (ReplicaGoneError, StaleAttemptError)
"""Nothing failed: the replica made room for another model meanwhile. Only the hold deadline bounds these."""
DROPS_REPLICA: Final = (*UNBOUND, ShuttingDownError, UnreachableError)
"""After these the replica is not asked again: the model is woken anew."""
BROKEN: Final = (UnreachableError, WireError)
"""After these a run may still go on at its agent."""


class Dispatch:
    """For all requests of a process."""

    def __init__(
        self,
        agents: Agents,
        routing: Routing,
        table: ReplicaTable,
        holding: Holding,
        breakers: Breakers,
        metrics: RequestMetrics,
        config: OrchestratorConfig,
        secret: str,
        clock: Clock,
    ) -> None:
        self._routing = routing
        self._table = table
        self._holding = holding
        self._breakers = breakers
        self._metrics = metrics
        self._config = config
        self._head = InferHead(secret)
        self._clock = clock
        self.runs = Runs(self._head)
        self._reattach = Reattach(agents, table, self.runs)
        self._handovers = Handovers(agents, table, self.runs, metrics)

    async def rejoin(self, call: Call, last_seq: int) -> web.StreamResponse:
        """What follows `last_seq` of an answer whose client lost it together with another orchestrator.

        A client that has nothing of it yet may be answered anew. Raises as `Reattach.find`, AnswerGoneError, and the
        error that ended it.
        """
        any_run = RunName(call.timeline.tenant, call.timeline.request_id)
        found = await self._reattach.find(call.record, any_run, last_seq)
        if found is not None:
            call.rejoin(found, last_seq)
            call.timeline.agent_id = found.replica.link.agent_id
            self._metrics.rejoined(call.timeline, last_seq)
        elif last_seq:
            raise AnswerGoneError(
                f"request {call.timeline.request_id} runs nowhere any more: it was cancelled, its agent is gone, or "
                "its client came back too late; send it without Last-Event-ID for a new answer"
            )
        return await self.answer(call, found)

    async def answer(self, call: Call, found: FoundRun | None = None) -> web.StreamResponse:
        """The whole answer, beginning with what was `found` of it. Raises the error that ended it."""
        timeline = call.timeline
        self._routing.note_call(call.record)
        while True:
            replica = found.replica if found is not None else await self._replica(call)
            timeline.state, timeline.revision, timeline.attempt = "running", replica.revision, replica.attempt
            timeline.agent_id = replica.link.agent_id
            try:
                return await self._ask(call, replica, found)
            except TryAgain as again:
                found = None
                cause = again.cause
            replica = call.replica or replica  # it may have moved
            if call.stream is not None and isinstance(cause, BROKEN):
                self.runs.end(replica.link, call.run)
            call.hop += 1
            if call.begun is not None and call.begun.is_whole(with_usage=call.with_usage):
                await call.exchange.finish_stream(sse.DONE)
                return call.exchange.response
            await self._failed(call, replica, cause)

    async def _replica(self, call: Call) -> Replica:
        """A ready one, or the one that is waited for."""
        replica = self._routing.pick(call.record, call.prompt, call.timeline.request_id, call.failed)
        if replica is None:
            replica = await self._holding.replica(call.exchange, call.record.name, call.prompt)
        return replica

    async def _failed(self, call: Call, replica: Replica, cause: SllmError) -> None:
        """Learn from a try that failed, and pause before the next. Raises when there shall be none."""
        timeline = call.timeline
        self._breakers.failed(replica.link, cause)
        if call.begun is None:
            self._metrics.retried(timeline, cause)
        if isinstance(cause, DROPS_REPLICA):
            self._table.drop(replica)
        if isinstance(cause, UNBOUND):
            if call.exchange.waited_s >= self._config.hold_timeout_s:
                raise self._holding.late(call.exchange)
        else:
            call.failed.append(replica.link.agent_id)
            replica.num_failures += 1
        if call.begun is not None:
            self._check_cuts(call, call.begun, cause)
        elif len(call.failed) > self._config.max_retries:
            raise WorkerLostError(
                f"{call.record.name} failed {len(call.failed)} times before its first token; last: {cause.message}"
            )
        if call.failed or timeline.num_retries > NUM_QUICK_RETRIES:
            pause_s = RETRY_PAUSE_S * 2 ** max(0, call.num_cuts - 1)
            await asyncio.sleep(min(MAX_PAUSE_S, pause_s))

    def _check_cuts(self, call: Call, record: StreamRecord, cause: SllmError) -> None:
        """Raises WorkerLostError when the stream broke too often."""
        call.num_cuts += not isinstance(cause, UNBOUND)
        if call.num_cuts > self._config.max_resumes:
            self._metrics.resumed(call.timeline, call.cut or cause, "failed", record.seq)
            raise WorkerLostError(
                f"the stream broke after {record.seq} tokens, and did not go on in {call.num_cuts - 1} tries; "
                f"last: {cause.message}",
                source=cause.source,
            )

    async def _ask(self, call: Call, replica: Replica, found: FoundRun | None) -> web.StreamResponse:
        """`_try`, counted as in flight at the replica, and learned from. A client that leaves ends the run."""
        call.replica = replica
        replica.num_inflight += 1
        replica.link.breaker.begin()
        try:
            response = await self._try(call, replica, found)
            if call.timeline.state == "done" or 400 <= call.timeline.status < 500:
                replica.link.breaker.succeeded()
            replica.num_failures = 0
            return response
        except (asyncio.CancelledError, ConnectionResetError):
            if call.stream is not None and call.timeline.state == "running":
                self.runs.end((call.replica or replica).link, call.run)
            raise
        finally:
            replica = call.replica or replica  # it may have moved
            replica.num_inflight -= 1
            replica.used_s = self._clock.monotonic_s()
            self._routing.learn(replica, call.timeline)

    async def _try(self, call: Call, replica: Replica, found: FoundRun | None) -> web.StreamResponse:
        """Forward to one replica. Raises TryAgain where another try may succeed."""
        response = await self._post(call, replica) if found is None else found.response
        if response.status != 200:
            return await self._refused(call, response)
        if call.stream is None:
            return await self._whole(call, response)
        return await self._stream(call, call.stream, replica, response)

    async def _whole(self, call: Call, response: UpstreamResponse) -> web.Response:
        try:
            body = await response.read_all(MAX_ANSWER_BYTES)
        except UnreachableError as error:
            raise TryAgain(error) from error
        finally:
            response.close()
        return call.exchange.whole(body, response.headers)

    async def _stream(
        self, call: Call, record: StreamRecord, replica: Replica, response: UpstreamResponse
    ) -> web.StreamResponse:
        """Relay a run to its end, attaching to it again where its connection breaks."""
        relay = Relay(call, record, self._metrics, self._config.stall_timeout_s)
        while True:
            moving = cause = None
            try:
                return await relay.run(response)
            except TryAgain as again:
                self._note_cut(call, again.cause)
                if call.begun is None or type(again.cause) is not UnreachableError:
                    raise
                cause = again.cause
            except Moved as moved:
                moving = moved.line
            finally:
                response.close()
            replica = call.replica or replica
            if moving is not None:
                response = await self._handovers.follow(call, record, replica, moving)
            elif cause is not None:
                response = await self._attach(call, record, replica, cause)

    async def _attach(
        self, call: Call, record: StreamRecord, replica: Replica, cause: SllmError
    ) -> UpstreamResponse:
        """The rest of the same run over a new connection. Raises TryAgain where there is none."""
        if not replica.link.is_alive or call.num_cuts >= self._config.max_resumes:
            raise TryAgain(cause)
        try:
            response = await self.runs.attach(replica.link, call.run, record.seq)
        except BROKEN as error:
            raise TryAgain(cause) from error
        if response.status != 200:
            response.close()
            raise TryAgain(cause)
        self._metrics.resumed(call.timeline, cause, "attached", record.seq)
        call.num_cuts += 1
        call.cut = None
        return response

    def _note_cut(self, call: Call, cause: SllmError) -> None:
        """The stream is broken from now on, if its client has any of it; what it waits for counts from here."""
        if call.begun is not None and call.cut is None:
            call.cut = cause
            call.exchange.be_patient()
            call.timeline.note_cut()

    async def _post(self, call: Call, replica: Replica) -> UpstreamResponse:
        """The answer's status and headers. Raises TryAgain when there are none."""
        exchange = call.exchange
        body, content_type = exchange.body, JSON
        if call.begun is not None:
            body, content_type = _resume_body(call.begun, exchange.body), CONTENT_TYPE
        post = replica.link.upstream.send("POST", "/infer", self._lines(call, replica), body, content_type)
        is_told = exchange.is_open or (exchange.is_stream and replica.is_loading)
        try:
            return await (self._holding.with_comments(exchange, replica.model, post) if is_told else post)
        except BROKEN as error:
            raise TryAgain(error) from error

    def _lines(self, call: Call, replica: Replica) -> bytes:
        return self._head.lines(
            call.timeline,
            replica,
            call.endpoint,
            seed=call.seed,
            hop=call.hop,
            created_s=call.created_s,
            cache_salt=call.prompt.salt,
            deadline_ms=call.exchange.deadlines.left_ms(self._clock),
            adapter=call.adapter,
        )

    async def _refused(self, call: Call, response: UpstreamResponse) -> web.StreamResponse:
        try:
            body = await response.read_all(MAX_ERROR_BYTES)
            error = from_openai(msgspec.json.decode(body), status=response.status)
        except msgspec.MsgspecError:
            error = WorkerLostError(f"the agent answered HTTP {response.status} without an error body")
        except BROKEN as cut:
            raise TryAgain(cut) from cut
        finally:
            response.close()
        if response.status >= 500 or isinstance(error, DROPS_REPLICA):
            raise TryAgain(error)
        if call.begun is not None and isinstance(error, CannotResumeError | QueueFullError):
            raise TryAgain(error)
        retry_after = response.headers.get("retry-after", "")
        return await call.exchange.refuse(response.status, body, error, retry_after)


def _resume_body(record: StreamRecord, body: bytes) -> bytes:
    """Raises WorkerLostError when what the client has cannot be told."""
    try:
        return encode_resume(record.head(), body)
    except (CannotResumeError, WireError) as error:
        raise WorkerLostError(
            f"the stream broke after {record.seq} tokens and cannot go on: {error.message}"
        ) from error
