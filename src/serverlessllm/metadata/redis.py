# SPDX-License-Identifier: Apache-2.0
"""The metadata store in one Redis server (7 or newer; a primary): one atomic Lua script, one stream as change log.

Every call is the script `store.lua` with the name of an operation. Leases count the server's clock; whatever script
runs first after an expiry deletes the entries and logs it, and each client runs one every `poll_s`. Streams keep
what pub/sub would lose: a watch that reconnects goes on where it was. Knows no keys and no records.

A call is never repeated by itself: it may have been carried out. Durable as the server's append-only file is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from importlib.resources import files
from typing import Any, Final, TypeVar

from redis.asyncio import Redis, SSLConnection
from redis.asyncio.connection import BlockingConnectionPool, Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, RedisError, ResponseError

from serverlessllm.errors import MetadataUnavailableError
from serverlessllm.metadata.access import ServerAccess
from serverlessllm.metadata.location import StoreLocation
from serverlessllm.metadata.store import (
    Change,
    CompactedError,
    Entry,
    Lease,
    LeaseExpiredError,
    UnreadableStoreError,
)

MAX_CHANGES: Final = 10_000
POLL_S: Final = 0.5
WATCH_BATCH: Final = 256
MAX_CONNECTIONS: Final = 64
_SCRIPT: Final = files("serverlessllm.metadata").joinpath("store.lua").read_bytes()
_PARTS: Final = ("meta", "index", "values", "revisions", "owners", "held", "leases", "log")
_KEYS: Final = [f"{{sllm}}:{part}" for part in _PARTS]
"""The braces put all of them into one slot of a Redis Cluster."""

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class RedisStore:
    """`MetadataStore` over one database of a server. Made with `open`, ended with `close`."""

    def __init__(
        self, client: Redis, where: str, *, call_timeout_s: float, max_changes: int, poll_s: float
    ) -> None:
        """For `open`."""
        self._client = client
        self._where = where
        self._call_timeout_s = call_timeout_s
        self._max_changes = max_changes
        self._poll_s = poll_s
        self._sha = ""
        self._wakes: set[asyncio.Event] = set()
        self._running: set[asyncio.Future[Any]] = set()
        self._is_closed = False
        self._follower: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        location: StoreLocation,
        access: ServerAccess | None = None,
        *,
        max_changes: int = MAX_CHANGES,
        poll_s: float = POLL_S,
    ) -> RedisStore:
        """Connect, and begin the store if the database has none.

        Raises: UnreadableStoreError when its data is not ours or newer, or the account is refused;
        MetadataUnavailableError; ConfigError for certificates.
        """
        access = access or ServerAccess()
        store = cls(
            _client(location, access),
            str(location),
            call_timeout_s=access.call_timeout_s,
            max_changes=max_changes,
            poll_s=poll_s,
        )
        try:
            await store._call("tick")
            await store._warn_if_volatile()
        except BaseException:
            await store.close()
            raise
        store._follower = asyncio.create_task(store._follow(), name="metadata-follow")
        return store

    async def get(self, key: str) -> Entry | None:
        """See `MetadataStore.get`."""
        found = await self._call("get", key)
        return Entry(key, found[0], int(found[1])) if found else None

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> int:
        """See `MetadataStore.put`."""
        return await self._write(key, value, lease, "") or 0  # None is for lost comparisons only

    async def delete(self, key: str, *, expect_revision: int | None = None) -> bool:
        """See `MetadataStore.delete`."""
        expected = "" if expect_revision is None else str(expect_revision)
        return bool(await self._call("delete", key, expected))

    async def compare_and_swap(
        self, key: str, expect_revision: int, value: bytes, *, lease: Lease | None = None
    ) -> int | None:
        """See `MetadataStore.compare_and_swap`."""
        return await self._write(key, value, lease, str(expect_revision))

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        """See `MetadataStore.range`."""
        revision, *flat = await self._call("range", prefix)
        rows = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        return [Entry(key.decode(), value, int(stamp)) for key, value, stamp in rows], int(revision)

    async def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[Change, None]:
        """See `MetadataStore.watch`."""
        wake = asyncio.Event()
        self._wakes.add(wake)
        try:
            while not self._is_closed:
                wake.clear()  # before reading: a write during the read wakes us again
                changes, scanned = await self._changes(prefix, from_revision)
                for change in changes:
                    yield change
                is_behind = scanned - from_revision >= WATCH_BATCH
                from_revision = scanned
                if not is_behind and not self._is_closed:
                    await wake.wait()
        except MetadataUnavailableError:
            if not self._is_closed:
                raise
        finally:
            self._wakes.discard(wake)

    async def lease(self, ttl_s: float) -> RedisLease:
        """See `MetadataStore.lease`."""
        return RedisLease(self, int(await self._call("lease", str(round(ttl_s * 1e3)))), ttl_s)

    async def close(self) -> None:
        """See `MetadataStore.close`."""
        if self._is_closed:
            return
        self._is_closed = True
        self._wake_all()
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        for call in self._running:
            call.cancel()
        if self._running:
            await asyncio.wait(set(self._running), timeout=self._call_timeout_s)
        await self._client.connection_pool.disconnect(inuse_connections=True)

    async def _write(self, key: str, value: bytes, lease: Lease | None, expected: str) -> int | None:
        lease_id = "" if lease is None else str(lease.lease_id)
        outcome: bytes = await self._call("write", key, value, lease_id, expected)
        if outcome == b"lease":
            raise _expired(lease_id)
        return int(outcome) if outcome else None

    async def _changes(self, prefix: str, after: int) -> tuple[list[Change], int]:
        """Changes of the next stretch of the log, and how far it reached. Raises CompactedError."""
        scanned, first, last, *flat = await self._call("changes", prefix, str(after), str(WATCH_BATCH))
        if not scanned:
            raise CompactedError(
                f"revision {after} is outside the kept history ({int(first)} to {int(last)}) of {self._where}; "
                "read the range again and watch from there"
            )
        rows = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        return [
            Change(key.decode(), value[1:] if value else None, int(revision)) for revision, key, value in rows
        ], int(scanned)

    async def _call(
        self, operation: str, *arguments: str | bytes
    ) -> Any:  # the reply's shape is the operation's
        """Run one operation of the script, within the bound. Raises MetadataUnavailableError."""
        if self._is_closed:
            raise MetadataUnavailableError(f"metadata store ({self._where}) was closed")
        given = [*_KEYS, operation, str(self._max_changes), *arguments]
        try:
            return await self._bounded(self._client.evalsha(self._sha, len(_KEYS), *given))
        except NoScriptError:  # a new connection's server, or one that restarted: it did nothing
            self._sha = await self._bounded(self._client.script_load(_SCRIPT))
            return await self._bounded(self._client.evalsha(self._sha, len(_KEYS), *given))

    async def _bounded(self, call: Coroutine[Any, Any, _Result] | Awaitable[_Result]) -> _Result:
        """The call's result. A server that does not answer in time is unavailable; its answer is not awaited."""
        # In a task of its own: what is cancelled inside of redis-py does not always end there.
        running = asyncio.ensure_future(call)
        self._running.add(running)
        try:
            await asyncio.wait({running}, timeout=self._call_timeout_s)
            if not running.done():
                raise MetadataUnavailableError(
                    f"metadata store ({self._where}) did not answer within {self._call_timeout_s:g} s"
                )
            return running.result()
        except NoScriptError:
            raise
        except (RedisError, OSError) as error:
            if not isinstance(error, ResponseError):  # connections that were idle then are dead too
                await self._client.connection_pool.disconnect(inuse_connections=False)
            raise self._as_ours(error) from error
        finally:
            running.cancel()
            running.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Future[Any]) -> None:
        self._running.discard(call)
        if not call.cancelled():
            call.exception()  # nobody asks any more

    def _as_ours(self, error: Exception) -> MetadataUnavailableError:
        where = f"metadata store ({self._where})"
        text = str(error)
        if isinstance(error, AuthenticationError | NoPermissionError):
            return UnreadableStoreError(
                f"{where} refuses us: {text}; see SLLM_METADATA_USER and SLLM_METADATA_PASSWORD"
            )
        if "SLLMSCHEMA" in text:
            return UnreadableStoreError(f"{where}: its schema is not version 1, but {text}")
        if "WRONGTYPE" in text:
            return UnreadableStoreError(
                f"{where}: keys named {{sllm}}:… are another program's; use another database"
            )
        return MetadataUnavailableError(f"{where}: {text or type(error).__name__}")

    async def _warn_if_volatile(self) -> None:
        """Say so when a crash of the server would lose what it acknowledged. Some servers do not tell."""
        try:
            found = await self._bounded(self._client.config_get("appendonly", "appendfsync"))
        except MetadataUnavailableError:
            return
        settings = {_text(name): _text(value) for name, value in found.items()}
        if settings.get("appendonly") == "no" or settings.get("appendfsync") != "always":
            _log.warning(
                "metadata store (%s): writes may be lost when the server crashes; "
                "set `appendonly yes` and `appendfsync always`",
                self._where,
            )

    async def _follow(self) -> None:
        """Until closed: end expired leases, and wake the watches when anybody has written, or the server is away."""
        seen = -1
        block_ms = max(1, round(self._poll_s * 1e3))
        while not self._is_closed:
            try:
                revision = int(await self._call("tick"))
                if revision != seen:
                    seen = revision
                    self._wake_all()
                log: Any = {_KEYS[-1]: f"{seen}-0"}  # redis-py's type is invariant
                await self._bounded(self._client.xread(log, count=1, block=block_ms))
            except MetadataUnavailableError as error:
                if seen != -1:
                    _log.warning("%s", error.message)
                seen = -1
                self._wake_all()  # a watch finds out by itself
                await asyncio.sleep(self._poll_s)

    def _wake_all(self) -> None:
        for wake in self._wakes:
            wake.set()


class RedisLease:
    """A lease of one `RedisStore`."""

    def __init__(self, store: RedisStore, lease_id: int, ttl_s: float) -> None:
        self._store = store
        self._lease_id = lease_id
        self._ttl_s = ttl_s

    @property
    def lease_id(self) -> int:
        """Unique in the store, for ever."""
        return self._lease_id

    @property
    def ttl_s(self) -> float:
        """Seconds from a keep-alive to expiry."""
        return self._ttl_s

    async def keep_alive(self) -> None:
        """See `Lease.keep_alive`."""
        if not await self._store._call("extend", str(self._lease_id), str(round(self._ttl_s * 1e3))):
            raise _expired(str(self._lease_id))

    async def revoke(self) -> None:
        """See `Lease.revoke`."""
        await self._store._call("revoke", str(self._lease_id))


def _client(location: StoreLocation, access: ServerAccess) -> Redis:
    host, _, port = location.endpoints[0].rpartition(":")
    options: dict[str, Any] = {  # of redis-py's constructors
        "host": host.strip("[]"),
        "port": int(port),
        "db": location.database,
        "username": access.user or None,
        "password": access.password or None,
        "socket_connect_timeout": access.call_timeout_s,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MAX_CONNECTIONS,
        "timeout": access.call_timeout_s,
    }
    if location.is_tls:
        access.tls_context()  # names a file that cannot be used
        options |= {"ssl_ca_certs": access.ca_file or None, "ssl_cert_reqs": "required"}
        options |= {"ssl_certfile": access.cert_file or None, "ssl_keyfile": access.key_file or None}
    kind = SSLConnection if location.is_tls else Connection
    return Redis(connection_pool=BlockingConnectionPool(connection_class=kind, **options))


def _expired(lease_id: str) -> LeaseExpiredError:
    return LeaseExpiredError(f"lease {lease_id} has expired; take a new one and put its entries again")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
