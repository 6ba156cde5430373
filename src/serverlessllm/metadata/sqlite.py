# SPDX-License-Identifier: Apache-2.0
"""The metadata store of one machine: SQLite behind one thread, with watches and leases.

Watches wake on this process's own writes at once, on other processes' writes within `poll_s`: SQLite tells a
connection that someone else wrote (`PRAGMA data_version`), not what; the change log has that.
Leases count wall-clock time, which all processes of the machine share; a clock set forward ends them early.
Knows no keys and no records.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.errors import MetadataUnavailableError
from serverlessllm.metadata.sqlite_file import SqliteFile
from serverlessllm.metadata.store import Change, Entry, Lease

MAX_CHANGES: Final = 10_000
POLL_S: Final = 0.25
WATCH_BATCH: Final = 256

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class SqliteStore:
    """`MetadataStore` over one file. Made with `open`, ended with `close`."""

    def __init__(
        self, file: SqliteFile, executor: ThreadPoolExecutor, *, path: Path, clock: Clock, poll_s: float
    ) -> None:
        """For `open`: `file` belongs to the executor's only thread."""
        self._file = file
        self._executor = executor
        self._path = path
        self._clock = clock
        self._poll_s = poll_s
        self._loop = asyncio.get_running_loop()
        self._wakes: set[asyncio.Event] = set()
        self._is_closed = False
        self._poller = asyncio.create_task(self._poll(), name=f"metadata-poll-{path.name}")

    @classmethod
    async def open(
        cls, path: Path, *, clock: Clock | None = None, max_changes: int = MAX_CHANGES, poll_s: float = POLL_S
    ) -> SqliteStore:
        """Open or create the file and its directory.

        `max_changes` is how far back a watch may start; `poll_s` how often other processes' writes and expired
        leases are looked for. Raises: UnreadableStoreError when it is damaged, foreign or newer;
        MetadataUnavailableError when it cannot be opened.
        """
        executor = ThreadPoolExecutor(1, thread_name_prefix="metadata")
        opening = asyncio.get_running_loop().run_in_executor(
            executor, partial(SqliteFile, path, max_changes=max_changes)
        )
        try:
            file = await opening
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(file, executor, path=path, clock=clock or SystemClock(), poll_s=poll_s)

    async def get(self, key: str) -> Entry | None:
        """See `MetadataStore.get`."""
        return await self._run(partial(self._file.get, key))

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> int:
        """See `MetadataStore.put`."""
        lease_id = None if lease is None else lease.lease_id
        now_s = self._clock.wall_s()
        revision = await self._run_write(
            partial(self._file.write, key, value, lease_id=lease_id, now_s=now_s)
        )
        return revision or 0  # None is for lost comparisons only

    async def delete(self, key: str, *, expect_revision: int | None = None) -> bool:
        """See `MetadataStore.delete`."""
        return await self._run_write(partial(self._file.delete, key, expect_revision=expect_revision))

    async def compare_and_swap(
        self, key: str, expect_revision: int, value: bytes, *, lease: Lease | None = None
    ) -> int | None:
        """See `MetadataStore.compare_and_swap`."""
        write = partial(
            self._file.write,
            key,
            value,
            lease_id=None if lease is None else lease.lease_id,
            now_s=self._clock.wall_s(),
            expect_revision=expect_revision,
        )
        return await self._run_write(write)

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        """See `MetadataStore.range`."""
        return await self._run(partial(self._file.range, prefix))

    async def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[Change, None]:
        """See `MetadataStore.watch`."""
        wake = asyncio.Event()
        self._wakes.add(wake)
        try:
            while not self._is_closed:
                wake.clear()  # before reading: a write during the read wakes us again
                batch = await self._run(partial(self._file.changes, prefix, from_revision, WATCH_BATCH))
                for change in batch.changes:
                    yield change
                from_revision = batch.scanned_revision
                if len(batch.changes) < WATCH_BATCH and not self._is_closed:
                    await wake.wait()
        finally:
            self._wakes.discard(wake)

    async def lease(self, ttl_s: float) -> SqliteLease:
        """See `MetadataStore.lease`."""
        expires_at_s = self._clock.wall_s() + ttl_s
        return SqliteLease(self, await self._run(partial(self._file.create_lease, expires_at_s)), ttl_s)

    async def close(self) -> None:
        """See `MetadataStore.close`. Writes already under way are finished first."""
        if self._is_closed:
            return
        self._is_closed = True
        self._wake_all()
        self._poller.cancel()
        await asyncio.gather(self._poller, return_exceptions=True)
        await self._loop.run_in_executor(self._executor, self._file.close)
        self._executor.shutdown(wait=False)

    async def _extend(self, lease_id: int, ttl_s: float) -> None:
        now_s = self._clock.wall_s()
        await self._run(partial(self._file.extend_lease, lease_id, now_s=now_s, expires_at_s=now_s + ttl_s))

    async def _end(self, lease_id: int) -> None:
        await self._run_write(partial(self._file.end_lease, lease_id))

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        """Do blocking work in the store's thread, in the order of the calls."""
        if self._is_closed:
            raise MetadataUnavailableError(f"metadata store {self._path} was closed")
        return await self._loop.run_in_executor(self._executor, work)

    async def _run_write(self, work: Callable[[], _Result]) -> _Result:
        """`_run`, then wake the watches: from the thread, because our caller may be cancelled meanwhile."""

        def write() -> _Result:
            result = work()
            self._loop.call_soon_threadsafe(self._wake_all)
            return result

        return await self._run(write)

    def _wake_all(self) -> None:
        for wake in self._wakes:
            wake.set()

    async def _poll(self) -> None:
        """Until closed: end expired leases, and wake the watches when another process has written."""
        seen = -1
        while not self._is_closed:
            try:
                version = await self._run(self._file.data_version)
                num_ended = await self._run(partial(self._file.end_expired_leases, self._clock.wall_s()))
                if num_ended or version != seen:
                    self._wake_all()
                seen = version
            except MetadataUnavailableError as error:
                _log.warning("metadata store: %s", error.message)
            await asyncio.sleep(self._poll_s)


class SqliteLease:
    """A lease of one `SqliteStore`."""

    def __init__(self, store: SqliteStore, lease_id: int, ttl_s: float) -> None:
        self._store = store
        self._lease_id = lease_id
        self._ttl_s = ttl_s

    @property
    def lease_id(self) -> int:
        """Unique in the store's file, for ever."""
        return self._lease_id

    @property
    def ttl_s(self) -> float:
        """Seconds from a keep-alive to expiry."""
        return self._ttl_s

    async def keep_alive(self) -> None:
        """See `Lease.keep_alive`."""
        await self._store._extend(self._lease_id, self._ttl_s)

    async def revoke(self) -> None:
        """See `Lease.revoke`."""
        await self._store._end(self._lease_id)
