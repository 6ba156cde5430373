# SPDX-License-Identifier: Apache-2.0
"""What a worker says of one request, on its way to its reader. Knows no connection but how to send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Set

import msgspec

from serverlessllm.errors import SllmError, WireError
from serverlessllm.wire.standby import Standing
from serverlessllm.wire.worker import AdapterLoaded, Cancel, Embedded, TokenEvent, ToWorker

StreamItem = TokenEvent | Embedded | AdapterLoaded | Standing | SllmError


class SlotStream:
    """All choices of one request; bounded by the request's `max_tokens`. `wire_id` names it at the worker.

    `forget` ends it: later items find nobody.
    """

    __slots__ = ("forget", "has_begun", "items", "request_id", "send", "wire_id")

    def __init__(
        self, request_id: str, wire_id: str, send: Callable[[ToWorker], None], forget: Callable[[], object]
    ) -> None:
        self.request_id = request_id
        self.wire_id = wire_id
        self.send = send
        self.forget = forget
        self.items: asyncio.Queue[StreamItem] = asyncio.Queue()
        self.has_begun = False

    async def events(self, unfinished: set[int], ended: Set[int]) -> AsyncGenerator[TokenEvent, None]:
        """The ids of the `unfinished` choices; see `Slot.generate`. Closing it cancels what runs and forgets it."""
        is_only = len(unfinished) == 1
        try:
            while unfinished:
                item = await self.items.get()
                if isinstance(item, SllmError):
                    if is_only:
                        unfinished.clear()
                    raise item
                if isinstance(item, Standing):
                    continue  # caught up in the moment in which it was told to go
                if not isinstance(item, TokenEvent):
                    raise WireError("no ids for a request that asked for ids", source="engine")
                if item.finish is not None:
                    unfinished.discard(item.choice)
                yield msgspec.structs.replace(item, request_id=self.request_id)
                if not ended.isdisjoint(unfinished):
                    for choice in unfinished & ended:
                        self.send(Cancel(self.wire_id, choice))
                    unfinished -= ended
        finally:
            self.forget()
            if unfinished:
                self.send(Cancel(self.wire_id))
