# SPDX-License-Identifier: Apache-2.0
"""A request that a slot prepares while it runs elsewhere. Knows ids, never text.

    preparing   extend     → preparing
                caught_up  → preparing, all ids but the newest computed
                go         → running: a stream of ids, like that of `Slot.generate`
                close      → gone

An engine that cannot prepare (`Hello.stands_by`) gets the request when it goes, and computes all of it then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence, Set

import msgspec

from serverlessllm.engine.slot_stream import SlotStream
from serverlessllm.errors import SllmError
from serverlessllm.wire.standby import Extend, Standing
from serverlessllm.wire.worker import Cancel, Generate, TokenEvent


class SlotStandby:
    """See the module. `cached_tokens` were found by the engine, over all choices, when it last caught up."""

    def __init__(
        self, stream: SlotStream, request: Generate, generated: Mapping[int, Sequence[int]], stands_by: bool
    ) -> None:
        """`generated`: choice → its ids so far, of those that run."""
        self._stream = stream
        self._request = request
        self._stands_by = stands_by
        self._ids = {choice: list(ids) for choice, ids in generated.items()}
        self._standing: dict[int, Standing] = {}
        self._is_open = True
        if stands_by:
            for choice in sorted(self._ids):
                stream.send(self._generate(choice, is_standby=True))

    @property
    def cached_tokens(self) -> int:
        """See the class."""
        return sum(standing.cached_tokens for standing in self._standing.values())

    @property
    def num_tokens(self) -> int:
        """Ids so far, prompts included, over all choices."""
        num_prompt = len(self._request.prompt_ids)
        return sum(num_prompt + len(ids) for ids in self._ids.values())

    def extend(self, choice: int, token_ids: Sequence[int]) -> None:
        """A choice got ids."""
        if not token_ids:
            return
        self._ids[choice] += token_ids
        if self._stands_by:
            self._stream.send(Extend(self._stream.wire_id, choice, list(token_ids)))

    def drop(self, choice: int) -> None:
        """A choice has ended elsewhere."""
        if self._ids.pop(choice, None) is not None and self._stands_by:
            self._standing.pop(choice, None)
            self._stream.send(Cancel(self._stream.wire_id, choice))

    async def caught_up(self) -> None:
        """Wait until all ids but the newest are computed. Raises: the worker's own error, WorkerLostError."""
        while self._stands_by and not self._has_all():
            item = await self._stream.items.get()
            if isinstance(item, SllmError):
                raise item
            if isinstance(item, Standing):
                self._standing[item.choice] = item

    def go(self, ended: Set[int]) -> AsyncGenerator[TokenEvent, None]:
        """Let it run: the ids that follow. `ended` as of `Slot.generate`."""
        for choice in sorted(self._ids):
            if self._stands_by:
                self._stream.send(Extend(self._stream.wire_id, choice, [], is_last=True))
            else:
                self._stream.send(self._generate(choice, is_standby=False))
        self._is_open = False
        return self._stream.events(set(self._ids), ended)

    def close(self) -> None:
        """Give it up, unless it went. Idempotent."""
        if self._is_open:
            self._is_open = False
            self._stream.forget()
            self._stream.send(Cancel(self._stream.wire_id))

    def _has_all(self) -> bool:
        num_prompt = len(self._request.prompt_ids)
        return all(
            (standing := self._standing.get(choice)) is not None
            and standing.num_tokens >= num_prompt + len(ids)
            for choice, ids in self._ids.items()
        )

    def _generate(self, choice: int, *, is_standby: bool) -> Generate:
        return msgspec.structs.replace(
            self._request,
            request_id=self._stream.wire_id,
            choice=choice,
            generated_ids=list(self._ids[choice]),
            is_standby=is_standby,
        )
