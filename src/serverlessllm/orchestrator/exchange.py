# SPDX-License-Identifier: Apache-2.0
"""One client request and its answer: when headers leave, what goes into them, how the answer ends.

Owns status, headers and framing of the client's response, and the request's timeline. Knows neither agents nor
models: the proxy tells it what arrived.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal

import msgspec
from aiohttp import HttpVersion11, web

from serverlessllm.clock import Clock
from serverlessllm.errors import SllmError
from serverlessllm.orchestrator.deadlines import NO_DEADLINES, Deadlines
from serverlessllm.orchestrator.replies import error_reply
from serverlessllm.telemetry.timeline import Timeline
from serverlessllm.wire import sse
from serverlessllm.wire.agent import AGENT_TIMING_HEADER, REQUEST_ID_HEADER, InferTiming
from serverlessllm.wire.openai import Usage

MAX_UNSENT_BYTES: Final = 64 << 10
_ERROR_EVENT: Final = b'data: {"error"'
_timing: Final = msgspec.json.Decoder(InferTiming)
_NO_TIMING: Final = InferTiming(queue_ms=0.0, prefill_ms=0.0, prompt_tokens=0)


class _Answer(msgspec.Struct):
    usage: Usage | None = None


_answer: Final = msgspec.json.Decoder(_Answer)


class _EventStream(web.StreamResponse):
    """Its headers leave with the first bytes of its body: one packet, one system call."""

    _send_headers_immediately = False


class Exchange:
    """From arrival to the last byte. `arrived_s` is monotonic."""

    def __init__(
        self, request: web.Request, body: bytes, timeline: Timeline, arrived_s: float, clock: Clock
    ) -> None:
        self.request = request
        self.body = body
        self.timeline = timeline
        self.arrived_s = arrived_s
        self.is_stream = timeline.is_stream
        self.deadlines: Deadlines = NO_DEADLINES
        self._clock = clock
        self._patient_since_s = arrived_s
        self._response: web.StreamResponse | None = None
        self._has_early_headers = False
        self._transport: asyncio.Transport | None = None

    @property
    def is_open(self) -> bool:
        """Whether the status and headers have left."""
        return self._response is not None

    @property
    def has_begun(self) -> bool:
        """Whether the first token is there."""
        return self.timeline.ttft_ms > 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since arrival."""
        return self._clock.monotonic_s() - self.arrived_s

    @property
    def waited_s(self) -> float:
        """Seconds since arrival, or since what it waits for last made progress from elsewhere."""
        return self._clock.monotonic_s() - self._patient_since_s

    def be_patient(self) -> None:
        """What it waits for makes progress: the hold deadline counts from now."""
        self._patient_since_s = self._clock.monotonic_s()

    async def comment(self, text: str) -> None:
        """Tell a waiting stream what goes on; its headers leave now if they have not."""
        if self._response is None:
            self._has_early_headers = True
            await self._open({})
        await self._write(sse.comment(text))

    def note_first_token(self, headers: dict[str, str]) -> None:
        """The agent's answer has begun, with these headers."""
        timing = _NO_TIMING
        raw = headers.get(AGENT_TIMING_HEADER)
        if raw is not None:
            try:
                timing = _timing.decode(raw)
            except msgspec.MsgspecError:
                timing = _NO_TIMING  # only figures are lost
        self.timeline.note_first_token(timing, self.elapsed_s * 1e3)

    async def forward(self, events: bytes) -> None:
        """Pass whole events on; the first ones carry the headers if they have not left."""
        if self._response is None:
            await self._open({"Server-Timing": self.timeline.server_timing()})
        await self._write(events)
        if self._transport is None and self.request.version >= HttpVersion11:
            self._transport = self.request.transport

    @property
    def is_flowing(self) -> bool:
        """Whether `forward_now` may be called: not before the first `forward`, for HTTP/1.0, or to a slow client."""
        transport = self._transport
        return (
            transport is not None
            and not transport.is_closing()
            and transport.get_write_buffer_size() <= MAX_UNSENT_BYTES
        )

    def forward_now(self, events: bytes) -> None:
        """As `forward`, without waiting: written straight to the client's connection, as one HTTP chunk."""
        if self._transport is not None:
            self._transport.write(b"%x\r\n%b\r\n" % (len(events), events))

    async def finish_stream(self, events: bytes) -> None:
        """The last events, `[DONE]` included; where headers left early, the timeline goes just before it."""
        if _ERROR_EVENT in events:
            self._settle("failed", 200)
            self.timeline.error = "the agent ended the stream with an error event"
        else:
            self._settle("done", 200)
        if self._has_early_headers:
            summary = sse.comment(f"timeline {self.timeline.summary_json()}")
            events = events[: -len(sse.DONE)] + summary + sse.DONE
        if self._response is None:
            await self._open({"Server-Timing": self.timeline.server_timing()})
        await self.response.write_eof(events)

    def whole(self, body: bytes, headers: dict[str, str]) -> web.Response:
        """The answer to a request without streaming."""
        self.note_first_token(headers)
        try:
            usage = _answer.decode(body).usage
        except msgspec.MsgspecError:
            usage = None  # the body is the client's; only a figure is lost
        if usage is not None:
            self.timeline.completion_tokens = usage.completion_tokens
        self._settle("done", 200)
        return web.Response(
            body=body,
            content_type="application/json",
            headers={
                REQUEST_ID_HEADER: self.timeline.request_id,
                "Server-Timing": self.timeline.server_timing(),
            },
        )

    async def refuse(
        self, status: int, body: bytes, error: SllmError, retry_after: str
    ) -> web.StreamResponse:
        """Pass an agent's 4xx on as it is; as an error event when headers have left."""
        if self._response is not None:
            return await self.fail(error)
        self._settle("failed", status, error)
        headers = {REQUEST_ID_HEADER: self.timeline.request_id}
        if retry_after:
            headers["Retry-After"] = retry_after
        return web.Response(body=body, status=status, content_type="application/json", headers=headers)

    async def fail(self, error: SllmError) -> web.StreamResponse:
        """End with `error`: its own status, or an error event and `[DONE]` when headers have left."""
        if self._response is None:
            self._settle("failed", error.http_status, error)
            return error_reply(error, {REQUEST_ID_HEADER: self.timeline.request_id})
        self._settle("failed", 200, error)
        await self.response.write_eof(sse.failure(error))
        return self.response

    def cancelled(self) -> None:
        """The client left."""
        if self.timeline.state in ("held", "running"):
            self._settle("cancelled", 499)

    @property
    def response(self) -> web.StreamResponse:
        """The stream that was opened. Raises SllmError when none was."""
        if self._response is None:
            raise SllmError("the stream was not opened; this is a bug of the proxy")
        return self._response

    def _settle(
        self, state: Literal["done", "failed", "cancelled"], status: int, error: SllmError | None = None
    ) -> None:
        self.timeline.state, self.timeline.status = state, status
        self.timeline.e2e_ms = self.elapsed_s * 1e3
        if error is not None:
            self.timeline.error = error.message

    async def _open(self, extra: dict[str, str]) -> None:
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            REQUEST_ID_HEADER: self.timeline.request_id,
            **extra,
        }
        self._response = _EventStream(headers=headers)
        await self._response.prepare(self.request)

    async def _write(self, data: bytes) -> None:
        await self.response.write(data)
