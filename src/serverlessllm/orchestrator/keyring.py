# SPDX-License-Identifier: Apache-2.0
"""API keys as the request path sees them: a watched copy of the store's `keys/`, looked up by hash."""

from __future__ import annotations

from functools import lru_cache

from serverlessllm.clock import Clock
from serverlessllm.errors import ConflictError, NotFoundError
from serverlessllm.metadata.api_keys import hash_key, mint_key
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import KeyRecord
from serverlessllm.metadata.store import MetadataStore
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.watched import Watched
from serverlessllm.types import DEFAULT_TENANT, Role


class Keyring:
    """While it is not empty there is an admin key among them: nobody can lock themselves out."""

    def __init__(self, store: MetadataStore, changes: Changes, clock: Clock) -> None:
        self._records: Watched[KeyRecord] = Watched(store, Keys.API_KEYS, KeyRecord, changes)
        self._clock = clock
        self._hash = lru_cache(256)(hash_key)

    async def start(self) -> None:
        """Read the store. Raises MetadataUnavailableError."""
        await self._records.start()

    async def stop(self) -> None:
        """Stop watching."""
        await self._records.stop()

    @property
    def is_empty(self) -> bool:
        """Whether no key exists: then none is asked for."""
        return not self._records.values()

    def find(self, plaintext: str) -> KeyRecord | None:
        """The key's record, None if it is unknown or revoked."""
        return self._records.get(Keys.api_key(self._hash(plaintext)))

    def all(self) -> list[KeyRecord]:
        """Every key, oldest first."""
        return sorted(self._records.values(), key=lambda record: record.created_at_s)

    async def create(self, name: str, role: Role, tenant: str = DEFAULT_TENANT) -> tuple[str, KeyRecord]:
        """A new key: (its text, shown this once; its record). Raises ConflictError if the first is no admin key."""
        if role != "admin" and not self._num_admins():
            raise ConflictError(
                "the first key must be an admin key: it is needed to make others", param="role"
            )
        plaintext, record = mint_key(name, role, tenant=tenant, clock=self._clock)
        await self._records.write(Keys.api_key(record.hash), record, replaces=None)
        return plaintext, record

    async def revoke(self, key_id: str) -> None:
        """Delete a key. Raises NotFoundError; ConflictError for the last admin key while others exist."""
        record = next((item for item in self._records.values() if item.id == key_id), None)
        if record is None:
            raise NotFoundError(f"no key {key_id[:80]!r}; see `sllm key list`", param="id")
        if record.role == "admin" and self._num_admins() == 1 and len(self._records.values()) > 1:
            raise ConflictError("this is the last admin key; revoke the others before it", param="id")
        await self._records.delete(Keys.api_key(record.hash))

    def _num_admins(self) -> int:
        return sum(record.role == "admin" for record in self._records.values())
