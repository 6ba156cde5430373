# SPDX-License-Identifier: Apache-2.0
"""One streamed answer over as many connections as it takes: what to send next, and what came of it. Sends nothing.

The request is named by us (`x-request-id`). When a connection breaks before the stream's end, the same body is sent
again with that name and the number of the last event that came whole (`Last-Event-ID`); any orchestrator of the
cluster then sends the rest. Nothing comes twice, because half an event was never read.
"""

from __future__ import annotations

from typing import Final

import httpx

from serverlessllm.errors import ServiceError, SllmError, UnreachableError, WireError
from serverlessllm.sdk.request import STREAM_TIMEOUT, Call, RequestBuilder
from serverlessllm.sdk.stream import Chunk, Reconnecting, StreamItem, StreamParser
from serverlessllm.types import mint_id

MAX_RECONNECTS: Final = 10
"""In a row: a new event starts the count anew."""
FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 3.0


class ChatStream:
    """`request`, then `feed` what comes; `broken` when the connection did not last until `is_done`."""

    def __init__(self, builder: RequestBuilder, call: Call[object]) -> None:
        self.request_id = mint_id("chatcmpl")
        self._builder = builder
        self._call = call
        self._parser = StreamParser()
        self._num_reconnects = 0
        self._last_seq = 0
        self._has_sent = False
        self._has_answered = False

    @property
    def is_done(self) -> bool:
        """Whether the stream's end was seen, or an error that ended it."""
        return self._parser.is_done

    def request(self) -> httpx.Request:
        """What to send: the request, or what asks for its rest."""
        request = self._builder.build(self._call, STREAM_TIMEOUT)
        request.headers["x-request-id"] = self.request_id
        if self._has_sent:
            request.headers["Last-Event-ID"] = str(self._last_seq)
        self._has_sent = True
        return request

    def answered(self) -> None:
        """The headers of a stream have come: from here on a break is worth coming back for."""
        self._has_answered = True
        self._parser = StreamParser()

    def feed(self, data: bytes) -> list[StreamItem]:
        """The items that became complete. Raises WireError as `StreamParser.feed`."""
        items = self._parser.feed(data)
        for item in items:
            if isinstance(item, Chunk) and item.seq is not None:
                self._last_seq, self._num_reconnects = max(self._last_seq, item.seq), 0
        return items

    def broken(self, error: SllmError) -> Reconnecting:
        """The connection broke, or the server could not answer: pause, then send `request` again.

        Raises `error` when that is no use: nothing had come yet, the answer is gone, or it was tried often enough.
        """
        can_come_back = isinstance(error, ServiceError | WireError) and self._has_answered
        if not can_come_back or self._num_reconnects >= MAX_RECONNECTS:
            raise error
        pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**self._num_reconnects)
        self._num_reconnects += 1
        return Reconnecting(self._num_reconnects, MAX_RECONNECTS, pause_s, error.message)

    def cut_error(self) -> SllmError | None:
        """What happened, when a connection ended before the stream did; None where it is whole."""
        if self._parser.is_done:
            return None
        return UnreachableError(
            f"lost {self._builder.base_url} after {self._last_seq} tokens", source="client"
        )
