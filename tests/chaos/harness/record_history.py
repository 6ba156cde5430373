# SPDX-License-Identifier: Apache-2.0
"""Every change of the placement records, as the store tells them, and what must hold of them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import msgspec

from serverlessllm.config import MetadataConfig
from serverlessllm.errors import MetadataUnavailableError
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.open import open_store
from serverlessllm.metadata.records import PlacementRecord
from serverlessllm.metadata.store import Change, MetadataStore

_RETRY_S = 0.2


class RecordHistory:
    """`run` until cancelled, `check` what was seen. A watch that reconnects goes on where it was."""

    def __init__(self, store_url: str) -> None:
        self.changes: list[Change] = []
        self._url = store_url
        self._store: MetadataStore | None = None

    async def open(self) -> None:
        """Connect; the server is there."""
        self._store = await open_store(MetadataConfig(url=self._url, call_timeout_s=1.0), Path())

    async def close(self) -> None:
        """Let go of the store."""
        await self._opened.close()

    @property
    def _opened(self) -> MetadataStore:
        assert self._store is not None
        return self._store

    async def run(self) -> None:
        """Follow, for ever."""
        revision = 0
        while True:
            try:
                async with aclosing(self._opened.watch(Keys.PLACEMENTS, revision)) as changes:
                    async for change in changes:
                        revision = change.revision
                        self.changes.append(change)
            except MetadataUnavailableError:
                await asyncio.sleep(_RETRY_S)

    async def now(self) -> list[PlacementRecord]:
        """The records as they stand."""
        entries, _ = await self._opened.range(Keys.PLACEMENTS)
        return [msgspec.json.decode(entry.value, type=PlacementRecord) for entry in entries]

    def check(self) -> None:
        """No write of an attempt that was overtaken: none over a newer one, and no claim that is not the newest."""
        current: dict[str, PlacementRecord] = {}
        newest: dict[str, int] = {}
        for change in self.changes:
            if change.value is None:
                current.pop(change.key, None)
                continue
            record = msgspec.json.decode(change.value, type=PlacementRecord)
            before = current.get(change.key)
            assert before is None or record.attempt >= before.attempt, f"{record} was written over {before}"
            if record.state == "loading":
                assert record.attempt > newest.get(change.key, 0), f"a stale claim: {record}"
            if before is not None and before.attempt == record.attempt:
                assert (before.node, before.state) == (record.node, "loading"), (before, record)
            current[change.key] = record
            newest[change.key] = max(record.attempt, newest.get(change.key, 0))
