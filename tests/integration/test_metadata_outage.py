# SPDX-License-Identifier: Apache-2.0
"""A metadata server that is killed, started again, or paused: calls are bounded, nothing acknowledged is lost,
watches go on where they were or say that they cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from pathlib import Path

import pytest

from serverlessllm.errors import MetadataUnavailableError
from serverlessllm.metadata.store import Change, CompactedError, LeaseExpiredError, MetadataStore
from support.metadata_servers import EtcdProcess, EtcdServer, RedisProcess, RedisServer

PATIENCE_S = 60.0
NUM_KILLS = 3
Server = RedisServer | EtcdServer


@pytest.fixture(params=["redis", "etcd"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """A process of the test's own."""
    with ExitStack() as stack:
        process = RedisProcess(tmp_path) if request.param == "redis" else EtcdProcess(tmp_path)
        stack.callback(process.kill)
        process.start()
        server: Server = (
            RedisServer(process, 0) if isinstance(process, RedisProcess) else EtcdServer(process, "")
        )
        yield server
        await server.stop()


async def returned(store: MetadataStore) -> None:
    """Until the store answers again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await store.get("/x")
                return
            except MetadataUnavailableError:
                await asyncio.sleep(0.02)


async def follow(store: MetadataStore, revision: int, last: bytes, seen: list[Change]) -> None:
    """As a watched copy does: take the watch up again after each failure, from the last change on."""
    while True:
        try:
            async with aclosing(store.watch("/k", revision)) as changes:
                async for change in changes:
                    seen.append(change)
                    revision = change.revision
                    if change.value == last:
                        return
        except MetadataUnavailableError:
            await asyncio.sleep(0.02)


async def test_watch_over_kills_of_the_server_has_every_acknowledged_write_once_in_order(
    server: Server,
) -> None:
    writer, reader = await server.client(), await server.client()
    seen: list[Change] = []
    acknowledged: list[bytes] = []
    start = (await reader.range("/"))[1]
    following = asyncio.create_task(follow(reader, start, b"last", seen))
    for round_ in range(NUM_KILLS):
        for index in range(30):
            await writer.put("/k", b"%d" % (30 * round_ + index))
            acknowledged.append(b"%d" % (30 * round_ + index))
        server.process.kill()
        with pytest.raises(MetadataUnavailableError):
            await writer.put("/k", b"nobody")
        await asyncio.to_thread(server.process.start)
        await returned(writer)
    await writer.put("/k", b"last")
    async with asyncio.timeout(PATIENCE_S):
        await following
    assert [change.value for change in seen] == [*acknowledged, b"last"]


async def test_paused_server_fails_calls_in_bounded_time_and_then_goes_on(server: Server) -> None:
    store = await server.client()
    revision = await store.put("/k", b"1")
    server.process.pause()
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(
            store.get("/k"),
            store.put("/x", b"1"),
            store.range("/"),
            anext(store.watch("/k", revision)),
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes[:3]] == [MetadataUnavailableError] * 3
    assert isinstance(outcomes[3], MetadataUnavailableError)
    server.process.go_on()
    await returned(store)
    assert await store.compare_and_swap("/k", revision, b"2") is not None


async def test_swap_that_the_paused_server_carries_out_later_is_not_repeated(server: Server) -> None:
    store = await server.client()
    revision = await store.put("/k", b"0")
    server.process.pause()
    with pytest.raises(MetadataUnavailableError, match="did not answer"):
        await store.compare_and_swap("/k", revision, b"1")
    server.process.go_on()
    await returned(store)
    entry = await store.get("/k")
    assert entry is not None and entry.value in (b"0", b"1")
    changes = entry.revision - revision
    assert changes == int(entry.value)


async def test_lease_that_ends_while_the_server_is_down_takes_its_entries(server: Server) -> None:
    store = await server.client()
    lease = await store.lease(server.shortest_ttl_s)
    start = await store.put("/k", b"1", lease=lease)
    server.process.kill()
    await asyncio.to_thread(server.process.start)
    await returned(store)
    async with asyncio.timeout(PATIENCE_S), aclosing(store.watch("/k", start)) as changes:
        assert (await anext(changes)).value is None
    with pytest.raises(LeaseExpiredError):
        await lease.keep_alive()


async def test_server_that_lost_its_data_ends_the_watch_and_takes_no_old_lease(
    server: Server, tmp_path: Path
) -> None:
    store = await server.client()
    lease = await store.lease(60.0)
    revision = 0
    for index in range(5):
        revision = await store.put("/k", b"%d" % index, lease=lease)
    server.process.kill()
    server.process.directory = tmp_path / "empty"
    await asyncio.to_thread(server.process.start)
    await returned(store)
    with pytest.raises(CompactedError):
        await anext(store.watch("/k", revision))
    with pytest.raises(LeaseExpiredError):
        await store.put("/k", b"x", lease=lease)
    assert await store.get("/k") is None
