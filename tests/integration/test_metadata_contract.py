# SPDX-License-Identifier: Apache-2.0
"""What every `MetadataStore` must do, against real servers. A new store adds one line to `server`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import ExitStack, aclosing
from itertools import count
from pathlib import Path

import pytest

from serverlessllm.errors import MetadataUnavailableError
from serverlessllm.metadata.store import Change, CompactedError, Entry, LeaseExpiredError, MetadataStore
from serverlessllm.orchestrator.placements import Placements
from support.metadata_servers import (
    KEPT_CHANGES,
    EtcdProcess,
    EtcdServer,
    MetadataServer,
    RedisProcess,
    RedisServer,
    SqliteServer,
)

PATIENCE_S = 60.0
KEPT_TTL_S = 2.0
HOSTILE_KEYS = ("/h/ ", "/h/\n", "/h/\x00", "/h/%", "/h/*[a]?", "/h/\U0010ffff", "/h/" + "k" * 1000, "/h/{x}")
CHILD = """
import asyncio, sys
from pathlib import Path
from serverlessllm.config import MetadataConfig
from serverlessllm.metadata.open import open_store

async def main():
    store = await open_store(MetadataConfig(url=sys.argv[1]), Path())
    for index in range(50): await store.put(sys.argv[2] + "/child", b"%d" % index)
    await store.close()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with ExitStack() as stack:
        process = RedisProcess(tmp_path_factory.mktemp("redis"))
        stack.callback(process.kill)
        process.start()
        yield process


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    with ExitStack() as stack:
        process = EtcdProcess(tmp_path_factory.mktemp("etcd"))
        stack.callback(process.kill)
        process.start()
        yield process


_numbers = count()


@pytest.fixture(params=["sqlite", "redis", "etcd"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataServer]:
    """A store that nobody has used."""
    number = next(_numbers)
    server: MetadataServer
    if request.param == "sqlite":
        server = SqliteServer(tmp_path)
    elif request.param == "redis":
        server = RedisServer(request.getfixturevalue("redis"), number)
    else:
        server = EtcdServer(request.getfixturevalue("etcd"), f"/test-{number}")
    yield server
    await server.stop()


@pytest.fixture
async def store(server: MetadataServer) -> MetadataStore:
    return await server.client()


async def take(watch: AsyncGenerator[Change, None], count: int) -> list[Change]:
    """The next `count` changes; the watch stays open."""
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(watch) for _ in range(count)]


async def beginning(store: MetadataStore) -> int:
    """The revision before everything that a test writes."""
    return (await store.range("/"))[1]


# -- reading and writing -------------------------------------------------------------------------------


async def test_absent_key_is_none(store: MetadataStore) -> None:
    assert await store.get("/none") is None


async def test_written_value_is_read_with_its_revision(store: MetadataStore) -> None:
    first = await store.put("/a", b"\x00\xff")
    second = await store.put("/b", b"")
    assert second > first > 0
    assert await store.get("/a") == Entry("/a", b"\x00\xff", first)
    assert await store.get("/b") == Entry("/b", b"", second)


async def test_write_is_seen_by_another_client(server: MetadataServer, store: MetadataStore) -> None:
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


async def test_revisions_go_on_after_all_clients_left(server: MetadataServer, store: MetadataStore) -> None:
    await store.put("/a", b"1")
    await store.delete("/a")
    _, before = await store.range("/")
    await store.close()
    assert await (await server.client()).put("/b", b"2") > before


async def test_clients_that_start_together_share_one_store(server: MetadataServer) -> None:
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
    server: MetadataServer, store: MetadataStore
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
    server: MetadataServer, store: MetadataStore
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
    start = await beginning(store)
    async with aclosing(store.watch("/", start)) as one, aclosing(store.watch("/", start)) as other:
        both = asyncio.gather(take(one, 20), take(other, 20))
        for index in range(20):
            await store.put("/a", b"%d" % index)
        seen_by_one, seen_by_other = await both
    assert seen_by_one == seen_by_other
    assert [change.value for change in seen_by_one] == [b"%d" % index for index in range(20)]


async def test_write_of_another_process_wakes_the_watch(server: MetadataServer, store: MetadataStore) -> None:
    async with aclosing(store.watch("/", await beginning(store))) as watch:
        waiting = asyncio.create_task(take(watch, 50))
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, server.url, server.namespace
        )
        assert await child.wait() == 0
        assert [change.value for change in await waiting] == [b"%d" % index for index in range(50)]


async def test_watch_from_before_the_kept_history_is_compacted(
    server: MetadataServer, store: MetadataStore
) -> None:
    first = await store.put("/a", b"first")
    for index in range(2 * KEPT_CHANGES):
        await store.put("/a", b"%d" % index)
    entries, revision = await store.range("/a")
    server.forget_history(revision - KEPT_CHANGES)
    with pytest.raises(CompactedError, match="read the range again"):
        await take(store.watch("/a", first), 1)
    async with aclosing(store.watch("/a", revision - KEPT_CHANGES // 2)) as watch:
        assert (await take(watch, KEPT_CHANGES // 2))[-1].value == entries[0].value


async def test_reader_that_falls_behind_misses_nothing_or_is_told_so(
    server: MetadataServer, store: MetadataStore
) -> None:
    start = await store.put("/a", b"first")
    seen: list[Change] = []
    async with aclosing(store.watch("/a", start)) as watch:
        revision = await store.put("/a", b"second")
        seen += await take(watch, 1)
        for index in range(2 * KEPT_CHANGES):
            revision = await store.put("/a", b"%d" % index)
        server.forget_history(revision - KEPT_CHANGES)
        try:
            while len(seen) < 2 * KEPT_CHANGES + 1:
                seen += await take(watch, 1)
        except CompactedError:
            assert server.trims_history
    wanted = [b"second", *(b"%d" % index for index in range(2 * KEPT_CHANGES))]
    assert [change.value for change in seen] == wanted[: len(seen)]


async def test_watch_taken_up_again_goes_on_after_the_last_change(store: MetadataStore) -> None:
    revision = await beginning(store)
    seen: list[bytes | None] = []
    for round_ in range(5):
        for index in range(4):
            await store.put("/a", b"%d" % (4 * round_ + index))
        async with aclosing(store.watch("/", revision)) as watch:
            for change in await take(watch, 3):  # one is left for the next round
                seen.append(change.value)
                revision = change.revision
    assert seen == [b"%d" % index for index in range(15)]


async def test_watch_from_a_revision_of_another_store_is_refused(store: MetadataStore) -> None:
    with pytest.raises(CompactedError):
        await take(store.watch("/", 1_000_000 + await beginning(store)), 1)


# -- leases ------------------------------------------------------------------------------------------------


async def test_entry_vanishes_when_its_lease_runs_out(server: MetadataServer, store: MetadataStore) -> None:
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


async def test_expiries_are_seen_by_every_watch_once_and_in_order(
    server: MetadataServer, store: MetadataStore
) -> None:
    start = await beginning(store)
    lease = await store.lease(server.shortest_ttl_s)
    for index in range(5):
        await store.put(f"/agents/{index}", b"1", lease=lease)
    async with aclosing((await server.client()).watch("/agents/", start)) as watch:
        changes = await take(watch, 10)
    assert [change.value for change in changes] == [b"1"] * 5 + [None] * 5
    assert sorted(change.key for change in changes[5:]) == [f"/agents/{index}" for index in range(5)]
    revisions = [change.revision for change in changes]
    assert revisions == sorted(revisions) and (await store.range("/agents/"))[0] == []


async def test_lease_kept_alive_outlives_its_time(store: MetadataStore) -> None:
    kept, lost = await store.lease(KEPT_TTL_S), await store.lease(KEPT_TTL_S)
    await store.put("/kept", b"1", lease=kept)
    revision = await store.put("/lost", b"1", lease=lost)
    async with aclosing(store.watch("/lost", revision)) as watch:
        waiting = asyncio.create_task(take(watch, 1))
        while not waiting.done():
            await kept.keep_alive()
            await asyncio.wait({waiting}, timeout=KEPT_TTL_S / 20)
    await kept.keep_alive()
    assert [entry.key for entry in (await store.range("/"))[0]] == ["/kept"]


# -- fencing -----------------------------------------------------------------------------------------------


async def test_writer_whose_lease_is_gone_changes_nothing(
    server: MetadataServer, store: MetadataStore
) -> None:
    lease = await store.lease(60.0)
    await store.put("/leader", b"old", lease=lease)
    await lease.revoke()
    newer = await (await server.client()).put("/leader", b"new")
    with pytest.raises(LeaseExpiredError):
        await store.compare_and_swap("/leader", newer, b"old", lease=lease)
    assert await store.get("/leader") == Entry("/leader", b"new", newer)


async def test_later_claim_has_the_higher_attempt_and_outlives_the_earlier_ones_release(
    server: MetadataServer, store: MetadataStore
) -> None:
    slow, quick = Placements(store), Placements(await server.client())
    stale = await slow.claim("m", "r", "agent-a")
    fresh = await quick.claim("m", "r", "agent-b")
    assert fresh > stale
    await slow.release("m", stale)
    slow.settle("m", stale, is_ready=True)
    await slow.flush()
    assert [(r.node, r.attempt, r.state) for r in await quick.all()] == [("agent-b", fresh, "loading")]
    await quick.release("m", fresh)
    assert await slow.claim("m", "r", "agent-a") > fresh


# -- what values, keys and ranges may be -----------------------------------------------------------------------


async def test_every_byte_and_a_large_value_come_back_as_they_were(store: MetadataStore) -> None:
    start = await beginning(store)
    values = [bytes(range(256)), b"", b"\r\n$5\r\n", b"\x00" * 1000, bytes(range(256)) * 2000]
    for index, value in enumerate(values):
        await store.put(f"/v/{index}", value)
    assert [entry.value for entry in (await store.range("/v/"))[0]] == values
    async with aclosing(store.watch("/v/", start)) as watch:
        assert [change.value for change in await take(watch, len(values))] == values


async def test_hostile_keys_are_keys_like_others(store: MetadataStore) -> None:
    start = await beginning(store)
    lease = await store.lease(60.0)
    for key in HOSTILE_KEYS:
        await store.put(key, key.encode(), lease=lease)
        found = await store.get(key)
        assert found is not None and found.value == key.encode()
    assert [entry.key for entry in (await store.range("/h/"))[0]] == sorted(HOSTILE_KEYS)
    async with aclosing(store.watch("/h/", start)) as watch:
        assert [change.key for change in await take(watch, len(HOSTILE_KEYS))] == list(HOSTILE_KEYS)
    await lease.revoke()
    assert (await store.range("/h/"))[0] == []


async def test_large_range_is_whole_and_of_one_moment(store: MetadataStore) -> None:
    names = [f"/l/{index:05}" for index in range(1200)]
    for first in range(0, len(names), 100):
        await asyncio.gather(*(store.put(name, b"x" * 100) for name in names[first : first + 100]))
    entries, revision = await store.range("/l/")
    assert [entry.key for entry in entries] == names
    assert max(entry.revision for entry in entries) == revision


# -- closing -----------------------------------------------------------------------------------------------


async def test_close_ends_watches_and_refuses_later_calls(store: MetadataStore) -> None:
    start = await beginning(store)

    async def collect() -> list[Change]:
        return [change async for change in store.watch("/", start)]

    watching = asyncio.create_task(collect())
    await store.get("/a")  # by now the watch has begun
    await store.close()
    assert await watching == []
    with pytest.raises(MetadataUnavailableError, match="closed"):
        await store.get("/a")
    await store.close()


async def test_cancelled_watch_leaves_the_store_usable(store: MetadataStore) -> None:
    waiting = asyncio.create_task(take(store.watch("/", await beginning(store)), 1))
    await store.get("/a")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await store.put("/a", b"1") > 0
