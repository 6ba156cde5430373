# SPDX-License-Identifier: Apache-2.0
"""What is particular to the SQLite store: its file, its clock, its history. The contract has its own suite."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from serverlessllm.errors import MetadataUnavailableError
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.metadata.store import LeaseExpiredError, UnreadableStoreError


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


@asynccontextmanager
async def opened(path: Path, clock: ManualClock | None = None) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, clock=clock, poll_s=0.01)
    try:
        yield store
    finally:
        await store.close()


async def refused(path: Path) -> UnreadableStoreError:
    """Open what must not be opened, and check that it is left as it was."""
    before = path.read_bytes()
    with pytest.raises(UnreadableStoreError) as caught:
        await SqliteStore.open(path)
    assert str(path) in caught.value.message and path.read_bytes() == before
    return caught.value


async def test_file_is_made_with_its_directory_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metadata.sqlite"
    async with opened(path) as store:
        await store.put("/a", b"1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_file_of_garbage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    path.write_bytes(b"this is not a database, and long enough to be looked at" * 100)
    error = await refused(path)
    assert not error.retryable and "move it away" in error.message


async def test_file_with_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    async with opened(path) as store:
        for index in range(200):
            await store.put(f"/{index}", b"x" * 200)
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 20] = b"\xa5" * (4096 * 17)
    path.write_bytes(data)
    await refused(path)


async def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    database = sqlite3.connect(path)
    database.executescript("PRAGMA journal_mode = WAL; CREATE TABLE songs (title TEXT);")
    database.close()
    assert "another program" in (await refused(path)).message


async def test_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    async with opened(path):
        pass
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    assert "version 99" in (await refused(path)).message


async def test_directory_in_place_of_the_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(MetadataUnavailableError, match="cannot open"):
        await SqliteStore.open(tmp_path)


async def test_lease_kept_alive_holds_its_entry_past_the_first_term(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path / "m.sqlite", clock) as store:
        lease = await store.lease(10.0)
        await store.put("/a", b"1", lease=lease)
        for _ in range(3):
            clock.now_s += 9.0
            await lease.keep_alive()
        assert await store.get("/a") is not None


async def test_lease_that_ran_out_refuses_everything(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path / "m.sqlite", clock) as store:
        lease = await store.lease(10.0)
        clock.now_s += 10.0
        with pytest.raises(LeaseExpiredError):
            await lease.keep_alive()
        with pytest.raises(LeaseExpiredError):
            await store.put("/a", b"1", lease=lease)
        assert await store.get("/a") is None


async def test_lease_that_ran_out_takes_its_entries_along(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path / "m.sqlite", clock) as store:
        await store.put("/stays", b"1")
        revision = await store.put("/goes", b"1", lease=await store.lease(10.0))
        watch = store.watch("/", revision)
        clock.now_s += 10.0
        change = await anext(watch)
        assert (change.key, change.value) == ("/goes", None)
        assert [entry.key for entry in (await store.range("/"))[0]] == ["/stays"]
        await watch.aclose()


async def test_lease_outlives_the_process_that_took_it(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "m.sqlite"
    async with opened(path, clock) as store:
        await store.put("/a", b"1", lease=await store.lease(10.0))
    async with opened(path, clock) as store:
        assert await store.get("/a") is not None
        watch = store.watch("/", (await store.range("/"))[1])
        clock.now_s += 10.0
        assert (await anext(watch)).value is None
        await watch.aclose()
