# SPDX-License-Identifier: Apache-2.0
"""What every `MetadataStore` must do. A new store adds one class to `STORES`; the tests stay as they are."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from serverlessllm.errors import MetadataUnavailableError
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.metadata.store import Change, CompactedError, Entry, LeaseExpiredError, MetadataStore

PATIENCE_S = 60.0
KEPT_CHANGES = 100


class SqliteServer:
    """One file; every client is a connection of its own, as in another process."""

    shortest_ttl_s = 0.2
    open_in_child = (
        "import asyncio, sys; from pathlib import Path\n"
        "from serverlessllm.metadata.sqlite import SqliteStore as Store\n"
        "open_store = lambda: Store.open(Path(sys.argv[1]))\n"
    )

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "metadata.sqlite")
        self._clients: list[SqliteStore] = []

    async def client(self) -> MetadataStore:
        store = await SqliteStore.open(Path(self.address), max_changes=KEPT_CHANGES, poll_s=0.02)
        self._clients.append(store)
        return store

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()


STORES = {"sqlite": SqliteServer}


@pytest.fixture(params=list(STORES))
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteServer]:
    server = STORES[request.param](tmp_path)
    yield server
    await server.stop()


@pytest.fixture
async def store(server: SqliteServer) -> MetadataStore:
    return await server.client()


async def take(watch: AsyncGenerator[Change, None], count: int) -> list[Change]:
    """The next `count` changes; the watch stays open."""
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(watch) for _ in range(count)]


# -- reading and writing -------------------------------------------------------------------------------


async def test_absent_key_is_none(store: MetadataStore) -> None:
    assert await store.get("/none") is None


async def test_written_value_is_read_with_its_revision(store: MetadataStore) -> None:
    first = await store.put("/a", b"\x00\xff")
    second = await store.put("/b", b"")
    assert second > first > 0
    assert await store.get("/a") == Entry("/a", b"\x00\xff", first)
    assert await store.get("/b") == Entry("/b", b"", second)


async def test_write_is_seen_by_another_client(server: SqliteServer, store: MetadataStore) -> None:
    other = await server.client()
    revision = await store.put("/a", b"1")
    assert await other.get("/a") == Entry("/a", b"1", revision)


async def test_delete_says_whether_the_key_was_there(store: MetadataStore) -> None:
    await store.put("/a", b"1")
    assert await store.delete("/a") is True
    assert await store.delete("/a") is False
    assert await store.get("/a") is None


async def test_delete_of_another_revision_leaves_the_key(store: MetadataStore) -> None:
    revision = await store.put("/a", b"1")
    assert await store.delete("/a", expect_revision=revision + 1) is False
    assert await store.delete("/a", expect_revision=0) is False
    assert await store.delete("/a", expect_revision=revision) is True


async def test_range_gives_the_prefix_in_order_and_nothing_else(store: MetadataStore) -> None:
    for key in ("/m/b", "/m/a", "/m/é", "/m", "/n", "/m%", "/m_x", "/M/a"):
        await store.put(key, key.encode())
    entries, revision = await store.range("/m/")
    assert [entry.key for entry in entries] == ["/m/a", "/m/b", "/m/é"]
    assert revision == await store.put("/later", b"") - 1


async def test_revisions_go_on_after_all_clients_left(server: SqliteServer, store: MetadataStore) -> None:
    await store.put("/a", b"1")
    await store.delete("/a")
    _, before = await store.range("/")
    await store.close()
    assert await (await server.client()).put("/b", b"2") > before


async def test_clients_that_start_together_share_one_store(server: SqliteServer) -> None:
    clients = await asyncio.gather(*(server.client() for _ in range(8)))
    revisions = await asyncio.gather(*(client.put("/a", b"1") for client in clients))
    assert len(set(revisions)) == len(clients)


# -- compare and swap --------------------------------------------------------------------------------------


async def test_swap_of_an_absent_key_succeeds_once(store: MetadataStore) -> None:
    revision = await store.compare_and_swap("/a", 0, b"1")
    assert revision is not None
    assert await store.compare_and_swap("/a", 0, b"2") is None
    assert await store.get("/a") == Entry("/a", b"1", revision)


async def test_swap_with_a_stale_revision_changes_nothing(store: MetadataStore) -> None:
    stale = await store.put("/a", b"1")
    fresh = await store.compare_and_swap("/a", stale, b"2")
    assert fresh is not None and fresh > stale
    assert await store.compare_and_swap("/a", stale, b"3") is None
    assert await store.get("/a") == Entry("/a", b"2", fresh)


async def test_swap_of_a_deleted_key_needs_zero(store: MetadataStore) -> None:
    revision = await store.put("/a", b"1")
    await store.delete("/a")
    assert await store.compare_and_swap("/a", revision, b"2") is None
    assert await store.compare_and_swap("/a", 0, b"2") is not None


async def test_hundred_swaps_from_two_clients_have_one_winner(
    server: SqliteServer, store: MetadataStore
) -> None:
    clients = [store, await server.client()]
    swaps = (clients[index % 2].compare_and_swap("/a", 0, b"%d" % index) for index in range(100))
    won = [(index, revision) for index, revision in enumerate(await asyncio.gather(*swaps)) if revision]
    assert len(won) == 1
    assert await store.get("/a") == Entry("/a", b"%d" % won[0][0], won[0][1])


# -- watching ----------------------------------------------------------------------------------------------


async def test_watch_gives_every_later_change_in_order(store: MetadataStore) -> None:
    start = await store.put("/a", b"0")
    first = await store.put("/a", b"1")
    async with aclosing(store.watch("/a", start)) as watch:
        assert await take(watch, 1) == [Change("/a", b"1", first)]
        await store.delete("/a")
        second = await store.put("/a", b"2")
        assert await take(watch, 2) == [Change("/a", None, second - 1), Change("/a", b"2", second)]


async def test_watch_waits_without_other_prefixes_waking_it(store: MetadataStore) -> None:
    _, revision = await store.range("/")
    async with aclosing(store.watch("/m/", revision)) as watch:
        waiting = asyncio.create_task(take(watch, 1))
        for index in range(2 * KEPT_CHANGES):  # history passes by, yet the watch is not left behind
            await store.put("/n/x", b"%d" % index)
        wanted = await store.put("/m/x", b"1")
        assert await waiting == [Change("/m/x", b"1", wanted)]


async def test_range_and_watch_together_miss_nothing_under_writes(
    server: SqliteServer, store: MetadataStore
) -> None:
    writer = await server.client()

    async def write() -> None:
        for index in range(300):
            await (writer if index % 2 else store).put(f"/k/{index % 7}", b"%d" % index)
            if index % 5 == 0:
                await store.delete(f"/k/{(index + 3) % 7}")
        await store.put("/k/end", b"")

    writing = asyncio.create_task(write())
    entries, revision = await store.range("/k/")
    view = {entry.key: entry.value for entry in entries}
    async with asyncio.timeout(PATIENCE_S), aclosing(store.watch("/k/", revision)) as watch:
        async for change in watch:
            assert change.revision > revision
            revision = change.revision
            if change.value is None:
                view.pop(change.key, None)
            else:
                view[change.key] = change.value
            if change.key == "/k/end":
                break
    await writing
    assert view == {entry.key: entry.value for entry in (await store.range("/k/"))[0]}


async def test_two_watches_see_the_same(store: MetadataStore) -> None:
    async with aclosing(store.watch("/", 0)) as one, aclosing(store.watch("/", 0)) as other:
        both = asyncio.gather(take(one, 20), take(other, 20))
        for index in range(20):
            await store.put("/a", b"%d" % index)
        seen_by_one, seen_by_other = await both
    assert seen_by_one == seen_by_other
    assert [change.value for change in seen_by_one] == [b"%d" % index for index in range(20)]


async def test_write_of_another_process_wakes_the_watch(server: SqliteServer, store: MetadataStore) -> None:
    program = server.open_in_child + (
        "async def main():\n"
        "    store = await open_store()\n"
        "    for index in range(50): await store.put('/child', b'%d' % index)\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    async with aclosing(store.watch("/", 0)) as watch:
        waiting = asyncio.create_task(take(watch, 50))
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, server.address)
        assert await child.wait() == 0
        assert [change.value for change in await waiting] == [b"%d" % index for index in range(50)]


async def test_watch_from_before_the_kept_history_is_compacted(store: MetadataStore) -> None:
    for index in range(2 * KEPT_CHANGES):
        await store.put("/a", b"%d" % index)
    with pytest.raises(CompactedError, match="read the range again"):
        await take(store.watch("/a", 1), 1)
    entries, revision = await store.range("/a")
    async with aclosing(store.watch("/a", revision - KEPT_CHANGES // 2)) as watch:
        assert (await take(watch, KEPT_CHANGES // 2))[-1].value == entries[0].value


async def test_reader_that_falls_behind_is_told_so(store: MetadataStore) -> None:
    await store.put("/a", b"first")
    async with aclosing(store.watch("/a", 0)) as watch:
        assert (await take(watch, 1))[0].value == b"first"
        for index in range(2 * KEPT_CHANGES):
            await store.put("/a", b"%d" % index)
        with pytest.raises(CompactedError):
            await take(watch, 2 * KEPT_CHANGES)


async def test_watch_from_a_revision_of_another_store_is_refused(store: MetadataStore) -> None:
    with pytest.raises(CompactedError):
        await take(store.watch("/", 1_000_000), 1)


# -- leases ------------------------------------------------------------------------------------------------


async def test_entry_vanishes_when_its_lease_runs_out(server: SqliteServer, store: MetadataStore) -> None:
    lease = await store.lease(server.shortest_ttl_s)
    revision = await store.put("/agent", b"1", lease=lease)
    async with aclosing((await server.client()).watch("/agent", revision)) as watch:
        assert [(change.key, change.value) for change in await take(watch, 1)] == [("/agent", None)]
    assert await store.get("/agent") is None
    with pytest.raises(LeaseExpiredError):
        await lease.keep_alive()


async def test_revoked_lease_takes_its_entries_and_no_others(store: MetadataStore) -> None:
    lease, other = await store.lease(60.0), await store.lease(60.0)
    await store.put("/a", b"1", lease=lease)
    await store.compare_and_swap("/b", 0, b"1", lease=lease)
    await store.put("/c", b"1", lease=other)
    await lease.revoke()
    await lease.revoke()
    assert [entry.key for entry in (await store.range("/"))[0]] == ["/c"]
    with pytest.raises(LeaseExpiredError):
        await store.put("/a", b"2", lease=lease)


async def test_write_without_the_lease_sets_the_entry_free(store: MetadataStore) -> None:
    lease = await store.lease(60.0)
    await store.put("/a", b"1", lease=lease)
    revision = await store.put("/a", b"2")
    await lease.revoke()
    assert await store.get("/a") == Entry("/a", b"2", revision)


# -- closing -----------------------------------------------------------------------------------------------


async def test_close_ends_watches_and_refuses_later_calls(store: MetadataStore) -> None:
    async def collect() -> list[Change]:
        return [change async for change in store.watch("/", 0)]

    watching = asyncio.create_task(collect())
    await store.get("/a")  # by now the watch has begun
    await store.close()
    assert await watching == []
    with pytest.raises(MetadataUnavailableError, match="closed"):
        await store.get("/a")
    await store.close()


async def test_cancelled_watch_leaves_the_store_usable(store: MetadataStore) -> None:
    waiting = asyncio.create_task(take(store.watch("/", 0), 1))
    await store.get("/a")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await store.put("/a", b"1") > 0
