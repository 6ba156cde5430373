# SPDX-License-Identifier: Apache-2.0
"""A watched copy of one kind of record: what the request path reads instead of the store.

When the store is away the last view stays. Own writes are in the view when the call returns; the watch brings
those of others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import ValuesView
from contextlib import aclosing, suppress
from typing import Final, Generic, TypeVar

from serverlessllm.errors import ConflictError, MetadataUnavailableError
from serverlessllm.metadata.records import (
    AgentRecord,
    DrainRecord,
    KeyRecord,
    ModelRecord,
    WeightsRecord,
    decode,
    encode,
)
from serverlessllm.metadata.store import (
    Change,
    CompactedError,
    Entry,
    MetadataStore,
    UnreadableStoreError,
)
from serverlessllm.orchestrator.changes import Changes

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0
R = TypeVar("R", ModelRecord, KeyRecord, AgentRecord, DrainRecord, WeightsRecord)


class Watched(Generic[R]):
    """All records under `prefix`, by store key. `changes` is told of every change."""

    def __init__(self, store: MetadataStore, prefix: str, kind: type[R], changes: Changes) -> None:
        self._store = store
        self._prefix = prefix
        self._kind: type[R] = kind
        self._changes = changes
        self._records: dict[str, R] = {}
        self._revisions: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read all records, then follow. Raises MetadataUnavailableError when the first read fails."""
        revision = await self._read_all()
        self._task = asyncio.create_task(self._follow(revision), name=f"watch {self._prefix}")

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def get(self, key: str) -> R | None:
        """The record as last seen."""
        return self._records.get(key)

    def values(self) -> ValuesView[R]:
        """All records as last seen."""
        return self._records.values()

    async def write(self, key: str, record: R, *, replaces: R | None) -> R:
        """Write over `replaces` (None: the key must be free). Raises ConflictError when another was faster."""
        if self._records.get(key) != replaces:
            raise ConflictError(f"{key} was changed meanwhile; look again", source="orchestrator")
        expected = self._revisions.get(key, 0)
        revision = await self._store.compare_and_swap(key, expected, encode(record))
        if revision is None:
            raise ConflictError(f"{key} was changed meanwhile; look again", source="orchestrator")
        self._apply(Change(key, encode(record), revision))
        return record

    async def delete(self, key: str) -> None:
        """Delete, whatever was written meanwhile. Deleting twice is no error."""
        await self._store.delete(key)
        self._records.pop(key, None)
        self._revisions.pop(key, None)
        self._changes.notify()

    async def _read_all(self) -> int:
        entries, revision = await self._store.range(self._prefix)
        self._records.clear()
        self._revisions.clear()
        for entry in entries:
            self._apply(Change(entry.key, entry.value, entry.revision))
        return revision

    async def _follow(self, revision: int) -> None:
        while True:
            try:
                async with aclosing(self._store.watch(self._prefix, revision)) as changes:
                    async for change in changes:
                        revision = change.revision
                        self._apply(change)
                return  # the store was closed
            except CompactedError:
                log.info("metadata under %s was compacted; reading it again", self._prefix)
                with suppress(MetadataUnavailableError):
                    revision = await self._read_all()
            except MetadataUnavailableError as error:
                log.warning("metadata: %s; going on with the last view", error.message)
                await asyncio.sleep(RETRY_S)

    def _apply(self, change: Change) -> None:
        if change.revision <= self._revisions.get(change.key, 0):
            return  # our own write, seen before
        self._records.pop(change.key, None)
        self._revisions.pop(change.key, None)
        if change.value is not None:
            try:
                self._records[change.key] = decode(
                    self._kind, Entry(change.key, change.value, change.revision)
                )
                self._revisions[change.key] = change.revision
            except UnreadableStoreError as error:
                log.error("%s", error.message)
        self._changes.notify()
