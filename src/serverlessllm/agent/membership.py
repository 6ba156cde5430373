# SPDX-License-Identifier: Apache-2.0
"""An agent's place in the cluster: its record under a lease, taken at the start, kept alive, given back at the end.

The store may be away at any time, at the start too: the agent serves what reaches it, and joins when the store is
back. Knows no orchestrator.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import msgspec

from serverlessllm.errors import MetadataUnavailableError
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import AgentRecord, encode
from serverlessllm.metadata.store import Lease, LeaseExpiredError, MetadataStore

RETRY_S: Final = 0.5

_log = logging.getLogger(__name__)


class Membership:
    """`start`, then `stop`. `open_store` is called until it succeeds."""

    def __init__(
        self, open_store: Callable[[], Awaitable[MetadataStore]], record: AgentRecord, *, ttl_s: float = 10.0
    ) -> None:
        self._open_store = open_store
        self._record = record
        self._ttl_s = ttl_s
        self._store: MetadataStore | None = None
        self._lease: Lease | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Join, and stay a member; does not wait for the store."""
        self._task = asyncio.create_task(self._run(), name="membership")

    async def say_stopping(self) -> None:
        """Tell orchestrators that this agent takes nothing new; they may not hear it while the store is away."""
        self._record = msgspec.structs.replace(self._record, is_stopping=True)
        if self._store is not None and self._lease is not None:
            with suppress(MetadataUnavailableError, LeaseExpiredError):
                await self._store.put(Keys.agent(self._record.id), encode(self._record), lease=self._lease)

    async def stop(self) -> None:
        """Leave: orchestrators are told at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._lease is not None:
            with suppress(MetadataUnavailableError):
                await self._lease.revoke()
        if self._store is not None:
            await self._store.close()

    async def _run(self) -> None:
        while True:
            try:
                await self._keep()
                await asyncio.sleep(self._ttl_s / 3)
            except LeaseExpiredError:
                _log.warning("the lease of %s ran out; joining again", self._record.id)
                self._lease = None
            except MetadataUnavailableError as error:
                _log.warning("%s; serving on, and joining when it is back", error.message)
                await asyncio.sleep(RETRY_S)

    async def _keep(self) -> None:
        if self._store is None:
            self._store = await self._open_store()
        if self._lease is not None:
            await self._lease.keep_alive()
            return
        lease = await self._store.lease(self._ttl_s)
        await self._store.put(Keys.agent(self._record.id), encode(self._record), lease=lease)
        self._lease = lease
        _log.info("joined as %s at %s", self._record.id, self._record.address)
