# SPDX-License-Identifier: Apache-2.0
"""The metadata store in an etcd cluster (3.4 or newer): its revisions, transactions, leases and watches are ours.

All keys lie under `namespace`. etcd itself compacts (`--auto-compaction-retention`); a watch that reaches back
further ends with CompactedError. All entries of a lease that ends are deleted under one revision, and such changes
arrive together. Knows no keys and no records.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator
from typing import Final

from serverlessllm.errors import MetadataUnavailableError
from serverlessllm.metadata.access import ServerAccess
from serverlessllm.metadata.etcd_gateway import EtcdGateway, EtcdRefusedError, Message
from serverlessllm.metadata.location import StoreLocation
from serverlessllm.metadata.store import Change, CompactedError, Entry, Lease, LeaseExpiredError

PAGE: Final = 1000
"""Entries per answer of a range: answers stay small, however large the range."""
_COMPACTED: Final = "required revision has been compacted"
_NO_LEASE: Final = "requested lease not found"


class EtcdStore:
    """`MetadataStore` over one cluster. Made with `open`, ended with `close`."""

    def __init__(self, gateway: EtcdGateway, namespace: str) -> None:
        """For `open`."""
        self._gateway = gateway
        self._namespace = namespace

    @classmethod
    async def open(
        cls, location: StoreLocation, access: ServerAccess | None = None, *, namespace: str = ""
    ) -> EtcdStore:
        """Connect.

        Raises: UnreadableStoreError when the account is refused; MetadataUnavailableError; ConfigError.
        """
        store = cls(EtcdGateway(location, access or ServerAccess()), namespace)
        try:
            await store._gateway.authenticate()
            await store.get("/")
        except BaseException:
            await store.close()
            raise
        return store

    async def get(self, key: str) -> Entry | None:
        """See `MetadataStore.get`."""
        answer = await self._call("/v3/kv/range", {"key": self._key(key)})
        return next((self._entry(kv) for kv in answer.get("kvs", ())), None)

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> int:
        """See `MetadataStore.put`."""
        return _revision(await self._call("/v3/kv/put", self._put(key, value, lease), lease))

    async def delete(self, key: str, *, expect_revision: int | None = None) -> bool:
        """See `MetadataStore.delete`."""
        if expect_revision == 0:
            return False
        body = {"key": self._key(key)}
        if expect_revision is None:
            return int((await self._call("/v3/kv/deleterange", body)).get("deleted", 0)) > 0
        operation = {"request_delete_range": body}
        answer = await self._call("/v3/kv/txn", self._if_at(key, expect_revision, operation))
        return bool(answer.get("succeeded"))

    async def compare_and_swap(
        self, key: str, expect_revision: int, value: bytes, *, lease: Lease | None = None
    ) -> int | None:
        """See `MetadataStore.compare_and_swap`."""
        operation = {"request_put": self._put(key, value, lease)}
        answer = await self._call("/v3/kv/txn", self._if_at(key, expect_revision, operation), lease)
        return _revision(answer) if answer.get("succeeded") else None

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        """See `MetadataStore.range`. Read in pages of one revision."""
        while True:
            try:
                return await self._range(prefix)
            except CompactedError:
                continue  # that revision was compacted between two pages: take a newer one

    async def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[Change, None]:
        """See `MetadataStore.watch`."""
        create = {
            "key": self._key(prefix),
            "range_end": self._end(prefix),
            "start_revision": str(from_revision + 1),
        }
        try:
            async with self._gateway.stream("/v3/watch", {"create_request": create}) as messages:
                async for message in messages:
                    self._check_history(message, from_revision)
                    for event in message.get("events", ()):
                        yield self._change(event)
        except EtcdRefusedError as error:
            raise MetadataUnavailableError(error.message) from error
        except MetadataUnavailableError:
            if not self._gateway.is_closed:
                raise

    async def lease(self, ttl_s: float) -> EtcdLease:
        """See `MetadataStore.lease`. etcd grants whole seconds, and has a minimum (2 s by default)."""
        answer = await self._call("/v3/lease/grant", {"TTL": str(max(1, math.ceil(ttl_s)))})
        return EtcdLease(self, int(answer["ID"]), float(answer["TTL"]))

    async def close(self) -> None:
        """See `MetadataStore.close`."""
        await self._gateway.close()

    async def _range(self, prefix: str) -> tuple[list[Entry], int]:
        first, end, revision = self._key(prefix), self._end(prefix), 0
        entries: list[Entry] = []
        while True:
            body = {"key": first, "range_end": end, "limit": str(PAGE), "revision": str(revision)}
            answer = await self._call("/v3/kv/range", body)
            entries += [self._entry(kv) for kv in answer.get("kvs", ())]
            revision = revision or _revision(answer)
            if not answer.get("more"):
                return entries, revision
            first = _text(b64decode(answer["kvs"][-1]["key"]) + b"\0")

    def _check_history(self, message: Message, from_revision: int) -> None:
        """Raises CompactedError when the changes after `from_revision` are not, or never were, this cluster's."""
        is_compacted = int(message.get("compact_revision", 0)) > 0 or message.get("canceled")
        if is_compacted or (message.get("created") and from_revision > _revision(message)):
            raise CompactedError(
                f"revision {from_revision} is outside the kept history of {self._gateway.where}; "
                "read the range again and watch from there"
            )

    async def _call(self, path: str, body: Message, lease: Lease | None = None) -> Message:
        """One call, with etcd's refusals as the contract's errors."""
        try:
            return await self._gateway.call(path, body)
        except EtcdRefusedError as error:
            if _NO_LEASE in error.reason and lease is not None:
                raise _expired(lease) from error
            if _COMPACTED in error.reason:
                raise CompactedError(error.message) from error
            raise MetadataUnavailableError(error.message) from error

    def _put(self, key: str, value: bytes, lease: Lease | None) -> Message:
        held = {} if lease is None else {"lease": str(lease.lease_id)}
        return {"key": self._key(key), "value": _text(value), **held}

    def _if_at(self, key: str, revision: int, operation: Message) -> Message:
        compare = {"key": self._key(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
        return {"compare": [compare], "success": [operation]}

    def _key(self, key: str) -> str:
        return _text((self._namespace + key).encode())

    def _end(self, prefix: str) -> str:
        """The first key after all that start with the prefix: UTF-8 has no byte 0xff."""
        return _text((self._namespace + prefix).encode() + b"\xff")

    def _name(self, key: str) -> str:
        return b64decode(key).decode()[len(self._namespace) :]

    def _entry(self, kv: Message) -> Entry:
        return Entry(self._name(kv["key"]), b64decode(kv.get("value", "")), int(kv["mod_revision"]))

    def _change(self, event: Message) -> Change:
        kv = event["kv"]
        value = None if event.get("type") == "DELETE" else b64decode(kv.get("value", ""))
        return Change(self._name(kv["key"]), value, int(kv["mod_revision"]))


class EtcdLease:
    """A lease of one `EtcdStore`."""

    def __init__(self, store: EtcdStore, lease_id: int, ttl_s: float) -> None:
        self._store = store
        self._lease_id = lease_id
        self._ttl_s = ttl_s

    @property
    def lease_id(self) -> int:
        """Unique in the cluster."""
        return self._lease_id

    @property
    def ttl_s(self) -> float:
        """Seconds from a keep-alive to expiry, as granted."""
        return self._ttl_s

    async def keep_alive(self) -> None:
        """See `Lease.keep_alive`."""
        answer = await self._store._call("/v3/lease/keepalive", {"ID": str(self._lease_id)})
        if int(answer.get("result", {}).get("TTL", 0)) <= 0:
            raise _expired(self)

    async def revoke(self) -> None:
        """See `Lease.revoke`."""
        try:
            await self._store._call("/v3/lease/revoke", {"ID": str(self._lease_id)}, self)
        except LeaseExpiredError:
            return


def _expired(lease: Lease) -> LeaseExpiredError:
    return LeaseExpiredError(f"lease {lease.lease_id} has expired; take a new one and put its entries again")


def _revision(message: Message) -> int:
    return int(message["header"]["revision"])


def _text(data: bytes) -> str:
    return b64encode(data).decode()
