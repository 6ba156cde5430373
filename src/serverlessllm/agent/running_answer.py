# SPDX-License-Identifier: Apache-2.0
"""One streamed answer that outlives its connection: it is written into a buffer, from which one reader is served.

    state     meaning                                        → next
    running   pieces come, whether or not somebody reads     ended
    ended     all events are in the buffer, also an error    forgotten by its registry

A reader may leave and another one come: events are kept, the oldest that were read are dropped above
`MAX_KEPT_BYTES`, and while more than that is unread nothing more is taken from the engine. A later reader displaces
an earlier one. Knows no HTTP; the grammar is `wire/sse.py`'s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from serverlessllm.agent.chunks import ChunkWriter
from serverlessllm.agent.continuation import Continuation
from serverlessllm.agent.inference import Inference
from serverlessllm.errors import AnswerGoneError, SllmError
from serverlessllm.wire import sse
from serverlessllm.wire.agent import InferTiming

MAX_KEPT_BYTES: Final = 4 << 20
NO_IDS: Final = -1
"""The number of an event that carries no ids: who attaches right before it gets it again."""


class RunningAnswer:
    """`start` once, then `begun`, then `follow`. `on_end` is called when it has ended, however."""

    def __init__(self, inference: Inference, on_end: Callable[[RunningAnswer], None]) -> None:
        self.headers = inference.headers
        self.num_readers = 0
        self.is_ended = False
        self.error: SllmError | None = None
        self.timing: InferTiming | None = None
        self.num_sampled = 0
        self.inference: Inference | None = inference
        """Until it has ended."""
        self.next_hop = inference.headers.hop + 1
        """The number of the run that it becomes where it moves to; each try takes one."""
        self._notice = b""
        self._on_end = on_end
        self._events: deque[tuple[int, bytes]] = deque()
        self._prompt_comment = b""
        self._num_dropped = 0
        self._dropped_seq = 0
        self._num_read = 0
        self._kept_bytes = 0
        self._unread_bytes = 0
        self._changed: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._begun = asyncio.Event()
        self._reader: object | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def kept_bytes(self) -> int:
        """Memory of its events."""
        return self._kept_bytes

    def start(self) -> None:
        """Run it, in a task of its own."""
        self._task = asyncio.create_task(self._run(), name=f"infer {self.headers.request_id}")

    async def begun(self) -> None:
        """Wait for the first event. Raises the error that came instead of it."""
        await self._begun.wait()
        if self.error is not None:
            raise self.error

    def check_kept(self, from_seq: int) -> None:
        """Raises AnswerGoneError when not all that follows `from_seq` is kept any more."""
        if from_seq < self._dropped_seq:
            raise AnswerGoneError(
                f"events after {from_seq} of request {self.headers.request_id} are not kept any more; "
                f"the oldest follow {self._dropped_seq}",
                source="agent",
            )

    async def follow(self, from_seq: int) -> AsyncGenerator[bytes, None]:
        """All events after the one with `from_seq`, as bytes of whole events, then what comes; the prompt comment
        first. It has begun. One whom another reader displaces gets an error event. Close it (`aclosing`) to leave.

        Ends without `[DONE]` where the agent stops. Raises as `check_kept`.
        """
        self.check_kept(from_seq)
        reader = self._reader = object()
        self._notice = b""
        self._wake()
        self._rewind(from_seq)
        head = self._prompt_comment
        while self._reader is reader:
            if data := self._take():
                yield head + data
                head = b""
            elif self.is_ended:
                return
            else:
                self._changed = asyncio.get_running_loop().create_future()
                await self._changed
        yield head + sse.failure(self._gone("another connection reads it now"))

    def notify(self, comment: bytes) -> None:
        """Tell the reader of this moment something, in a comment line behind the events so far. It is not kept."""
        self._notice = comment
        self._wake()

    async def cancel(self, reason: str = "") -> None:
        """End it now, wherever it is; returns when its seat is given back. Readers are told the `reason`, if any."""
        if self._task is not None and not self._task.done():
            self._task.cancel(reason)
            await asyncio.wait({self._task})

    def _take(self) -> bytes:
        """The events that the reader does not have."""
        notice, self._notice = self._notice, b""
        num_new = self._num_dropped + len(self._events) - self._num_read
        if not num_new:
            return notice
        self._num_read += num_new
        self._unread_bytes = 0
        self._room.set()
        if num_new == 1:
            return self._events[-1][1] + notice
        return b"".join([*(self._events[index][1] for index in range(-num_new, 0)), notice])

    def _rewind(self, from_seq: int) -> None:
        """Unread is what follows the last event that has ids up to `from_seq`."""
        position = unread_bytes = 0
        for index, (seq, data) in enumerate(self._events, start=1):
            unread_bytes += len(data)
            if NO_IDS < seq <= from_seq:
                position, unread_bytes = index, 0
        self._num_read = self._num_dropped + position
        self._unread_bytes = unread_bytes

    def _push(self, seq: int, data: bytes) -> None:
        self._events.append((seq, data))
        self._kept_bytes += len(data)
        self._unread_bytes += len(data)
        while self._kept_bytes > MAX_KEPT_BYTES and self._num_dropped < self._num_read:
            dropped_seq, dropped = self._events.popleft()
            self._num_dropped += 1
            self._kept_bytes -= len(dropped)
            self._dropped_seq = max(self._dropped_seq, dropped_seq)
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _run(self) -> None:
        """Write all events. What fails before the first one is kept as `error`."""
        inference = self.inference
        if inference is None:
            raise SllmError("an answer runs once", source="agent")
        try:
            await self._write(inference)
        except SllmError as error:
            self._fail(error)
        except asyncio.CancelledError as cancelled:
            reason = str(cancelled.args[0]) if cancelled.args else ""
            if reason or not self._begun.is_set():
                self._fail(self._gone(reason or "the agent stops"))
        finally:
            self.num_sampled = inference.num_sampled
            self.inference = None
            self.is_ended = True
            self._begun.set()
            self._wake()
            self._on_end(self)

    async def _write(self, inference: Inference) -> None:
        writer = _writer(inference)
        async with inference.within_deadline(), aclosing(inference.pieces()) as pieces:
            async for piece in pieces:
                if not self._begun.is_set():
                    self._begin(inference, writer)
                self._push(
                    piece.seq if piece.token_ids else NO_IDS, sse.event(piece.seq, writer.chunk(piece))
                )
                if self._unread_bytes > MAX_KEPT_BYTES:
                    self._room.clear()
                    await self._room.wait()
        if not self._begun.is_set():
            if inference.continued is None:
                raise SllmError("the engine ended the answer without an id", source="agent")
            self._begin(inference, writer)
        end = sse.DONE
        if inference.request.include_usage:
            end = sse.event(inference.last_seq, writer.usage_chunk(inference.usage)) + end
        self._push(NO_IDS, end)

    def _begin(self, inference: Inference, writer: ChunkWriter) -> None:
        """The first event comes: what readers need of the request is known."""
        self.timing = inference.timing
        self._prompt_comment = sse.PROMPT_COMMENT + inference.prompt_digest.encode() + b"\n"
        if inference.continued is not None:
            self._continue(inference, inference.continued, writer)
        self._begun.set()

    def _continue(self, inference: Inference, continued: Continuation, writer: ChunkWriter) -> None:
        """What its reader has is written again where that can be done, so that he can be served after one more cut.

        Not where it carried log-probabilities, nor of several choices: how they alternated is not known.
        """
        if len(continued.generated) == 1 and inference.request.num_logprobs < 0 and continued.told:
            num_tokens = 0
            for piece in continued.told:
                num_tokens += len(piece.token_ids)
                again = replace(piece, seq=num_tokens)
                self._push(num_tokens, sse.event(num_tokens, writer.chunk(again)))
            return
        self._dropped_seq = continued.head.seq
        for index in continued.begun:
            writer.continue_choice(index, inference.num_spelled(continued.generated[index]))

    def _fail(self, error: SllmError) -> None:
        if self._begun.is_set():
            self._push(NO_IDS, sse.failure(error))
        else:
            self.error = error

    def _gone(self, reason: str) -> AnswerGoneError:
        return AnswerGoneError(f"request {self.headers.request_id}: {reason}", source="agent")


def _writer(inference: Inference) -> ChunkWriter:
    return ChunkWriter(
        inference.endpoint,
        inference.headers.request_id,
        inference.headers.created_s,
        inference.request.model,
        include_usage=inference.request.include_usage,
    )
