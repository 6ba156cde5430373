# SPDX-License-Identifier: Apache-2.0
"""The metadata store's contract: facts that outlive a process, and every change of them, in order.

Values are bytes; what they mean is in `records.py`, how keys are named in `keys.py`. Knows no database:
`tests/integration/test_metadata_contract.py` holds every implementation to these docstrings.

One counter orders everything: each put, delete and expiry raises the store's revision by at least one and
stamps the entry with it. `range` then `watch` from the revision it returned misses nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from serverlessllm.errors import MetadataUnavailableError, ServiceError


class CompactedError(ServiceError):
    """The changes since that revision are no longer kept, or it is not of this store: read the range again."""

    code = "metadata_compacted"
    http_status = 503


class LeaseExpiredError(ServiceError):
    """The lease ran out or was revoked, and its entries are gone: take a new one and put them again."""

    code = "metadata_lease_expired"
    http_status = 503
    retryable = False


class UnreadableStoreError(MetadataUnavailableError):
    """The store is there but cannot be used: damaged, not ours, or written by a newer version.

    Waiting does not help; an operator must restore or move it.
    """

    code = "metadata_unreadable"
    retryable = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as it stands; `revision` is that of its last write."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Change:
    """One write; `value` None means that the key was deleted, or its lease expired."""

    key: str
    value: bytes | None
    revision: int


class Lease(Protocol):
    """Entries put under a lease vanish when it is not kept alive for `ttl_s`."""

    @property
    def lease_id(self) -> int: ...

    @property
    def ttl_s(self) -> float: ...

    async def keep_alive(self) -> None:
        """Start the time to live anew. Raises LeaseExpiredError when it is too late."""

    async def revoke(self) -> None:
        """Delete the lease's entries now. Revoking twice is no error."""


class MetadataStore(Protocol):
    """For one event loop. Every method may raise MetadataUnavailableError.

    A write is durable when its call returns. A call that is cancelled may or may not have been carried out.
    """

    async def get(self, key: str) -> Entry | None:
        """The entry, or None when there is no such key."""

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> int:
        """Write, whatever was there; return the new revision. Without `lease` the entry stays until deleted.

        Raises: LeaseExpiredError; then nothing was written.
        """

    async def delete(self, key: str, *, expect_revision: int | None = None) -> bool:
        """Whether the key was deleted: False when absent, or its revision is not the expected one."""

    async def compare_and_swap(
        self, key: str, expect_revision: int, value: bytes, *, lease: Lease | None = None
    ) -> int | None:
        """Write if the entry's revision is `expect_revision` (0: the key is absent).

        Returns the new revision, or None when another writer was faster. Raises: LeaseExpiredError.
        """

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        """All entries whose key starts with `prefix`, by key, and the store's revision at that moment."""

    def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[Change, None]:
        """Every change after `from_revision` under `prefix`, in order, none left out; waits for more.

        Ends when the store is closed. Close the generator (`contextlib.aclosing`) when leaving early.
        Raises: CompactedError when `from_revision`, or what the reader has reached, is older than what is kept.
        """

    async def lease(self, ttl_s: float) -> Lease:
        """A new lease, alive for `ttl_s` from now."""

    async def close(self) -> None:
        """End all watches and let go of the store. Later calls raise MetadataUnavailableError."""
