# SPDX-License-Identifier: Apache-2.0
"""Passes one run's events on to its client, and notices when the run breaks: a cut, an error of ours, or silence.

Whole events only; what follows the last whole one of a dead agent is dropped. Bodies are not parsed. Silence is
watched for after a run's first event, by a timer for the stream and not for each chunk.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from serverlessllm.errors import (
    HoldDeadlineError,
    ServiceError,
    SllmError,
    StalledError,
    UnreachableError,
    WireError,
    from_openai,
)
from serverlessllm.orchestrator.call import Call, Moved, TryAgain
from serverlessllm.orchestrator.request_metrics import RequestMetrics
from serverlessllm.orchestrator.stream_record import StreamRecord
from serverlessllm.orchestrator.upstream import UpstreamResponse
from serverlessllm.wire.sse import StreamRelay, after

ERROR_LINE: Final = b'data: {"error"'
NUM_LOOKS: Final = 4
"""How often the timer looks within the bound."""


class Silence:
    """Breaks a response off when its reader waits longer than `timeout_s` for a byte. 0: never."""

    def __init__(self, response: UpstreamResponse, timeout_s: float) -> None:
        self._response = response
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._num_looked = 0
        self._num_seen = 0
        self.num_reads = 0
        self.is_reading = False

    def watch(self) -> None:
        """From now on."""
        if self._timer is None and self._timeout_s > 0:
            self._look_again()

    def stop(self) -> None:
        """The stream is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._timeout_s / NUM_LOOKS, self._look)

    def _look(self) -> None:
        if not self.is_reading or self.num_reads != self._num_seen:
            self._num_seen, self._num_looked = self.num_reads, 0
        elif (num := self._num_looked + 1) >= NUM_LOOKS:
            self._response.fail(StalledError(f"no byte came for {self._timeout_s:g} s", source="agent"))
            return
        else:
            self._num_looked = num
        self._look_again()


class Relay:
    """One run of one stream."""

    def __init__(
        self, call: Call, record: StreamRecord, metrics: RequestMetrics, stall_timeout_s: float
    ) -> None:
        self._call = call
        self._exchange = call.exchange
        self._record = record
        self._metrics = metrics
        self._stall_timeout_s = stall_timeout_s
        self._has_seen = call.last_seq > 0

    async def run(self, response: UpstreamResponse) -> web.StreamResponse:
        """To the stream's end. Raises TryAgain when the run breaks before it, Moved when its agent hands it over;
        ConnectionResetError.
        """
        relay, exchange, record = StreamRelay(), self._exchange, self._record
        silence = Silence(response, self._stall_timeout_s)
        has_begun = False
        try:
            while True:
                silence.is_reading = True
                data = await response.read()
                silence.is_reading = False
                silence.num_reads += 1
                if not data:
                    break
                events = relay.feed(data)
                if not events:
                    if relay.moving is not None:
                        raise Moved(relay.moving)
                    continue
                record.prompt_digest = relay.prompt_digest or record.prompt_digest
                if relay.is_done:
                    events = await self._without_error(events)
                if not has_begun:
                    has_begun = True
                    self._begin(response)
                    silence.watch()
                record.seq = relay.seq or record.seq
                self._metrics.progressed(exchange.timeline, record.seq)
                if relay.is_done:
                    await exchange.finish_stream(self._unseen(events))
                    await response.drain()
                    return exchange.response
                record.keep(events)
                if self._has_seen:
                    events = self._unseen(events)
                if events:
                    await exchange.forward(events)
                    if not self._has_seen:
                        response.divert(partial(self._pass_on, relay, silence))
                if relay.moving is not None:
                    raise Moved(relay.moving)
            cut: SllmError = UnreachableError("the agent ended the stream before [DONE]", source="agent")
        except (UnreachableError, WireError) as error:
            cut = error
        finally:
            silence.stop()
        raise TryAgain(cut)

    def _pass_on(self, relay: StreamRelay, silence: Silence, data: bytes) -> bool:
        """The usual chunk, as it arrives. False for what `run` must see: the end, halves, a client that is slow."""
        if not relay.is_plain(data) or not self._exchange.is_flowing:
            return False
        silence.num_reads += 1
        events = relay.feed(data)
        if events:
            record = self._record
            record.seq = relay.seq or record.seq
            self._metrics.progressed(self._exchange.timeline, record.seq)
            record.keep(events)
            self._exchange.forward_now(events)
        return True

    def _unseen(self, events: bytes) -> bytes:
        """Without what a client that came back has already."""
        if not self._has_seen:
            return events
        events = after(events, self._call.last_seq)
        self._has_seen = not events
        return events

    def _begin(self, response: UpstreamResponse) -> None:
        """The run's first events are there."""
        call = self._call
        if not self._exchange.has_begun:
            self._exchange.note_first_token(response.headers)
        if call.cut is not None:
            self._metrics.resumed(call.timeline, call.cut, "continued", self._record.seq)
            call.cut = None

    async def _without_error(self, events: bytes) -> bytes:
        """The last events of a run. Raises TryAgain for an error that another run may not have; what came before it
        goes to the client."""
        at = 0 if events.startswith(ERROR_LINE) else events.find(b"\n" + ERROR_LINE) + 1
        if not at and not events.startswith(ERROR_LINE):
            return events
        line = events[at + len(b"data: ") : events.find(b"\n", at)]
        try:
            error = from_openai(msgspec.json.decode(line), status=200)
        except msgspec.MsgspecError:
            return events
        if not isinstance(error, ServiceError) or isinstance(error, HoldDeadlineError):
            return events
        raise TryAgain(await self._keep_before(events[:at], error))

    async def _keep_before(self, events: bytes, error: SllmError) -> SllmError:
        relay = StreamRelay()
        events = relay.feed(events)
        if events:
            self._record.seq = relay.seq or self._record.seq
            self._record.keep(events)
            if not self._exchange.has_begun:
                self._exchange.note_first_token({})
            if events := self._unseen(events):
                await self._exchange.forward(events)
        return error
