# SPDX-License-Identifier: Apache-2.0
"""One orchestrator's lease in the store: its claims live under it, and so does leadership, which one of all has.

Leadership is believed for one time to live after the last renewal was *begun*: another can have it only later.
While the store is away there is no leader. Knows not what claims and leaders do.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from serverlessllm.clock import Clock
from serverlessllm.errors import MetadataUnavailableError
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.store import Lease, LeaseExpiredError, MetadataStore

log = logging.getLogger(__name__)


class Tenure:
    """`start`, then `lease` and `is_leader`, then `stop`. `owner` is this orchestrator's lasting name."""

    def __init__(self, store: MetadataStore, owner: str, clock: Clock, *, ttl_s: float = 10.0) -> None:
        self.owner = owner
        self._store = store
        self._clock = clock
        self._ttl_s = ttl_s
        self._lease: Lease | None = None
        self._leads_until_s = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this orchestrator decides what only one may."""
        return self._clock.monotonic_s() < self._leads_until_s

    async def start(self) -> None:
        """Take the lease, now if the store answers, and keep it from then on."""
        await self._renew()
        self._task = asyncio.create_task(self._run(), name="orchestrator lease")

    async def stop(self) -> None:
        """Give everything back, so that others need not wait."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._leads_until_s = 0.0
        if self._lease is not None:
            with suppress(MetadataUnavailableError):
                await self._lease.revoke()

    async def lease(self) -> Lease:
        """The lease to put claims under. Raises MetadataUnavailableError."""
        if self._lease is None:
            self._lease = await self._store.lease(self._ttl_s)
        return self._lease

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            await self._renew()

    async def _renew(self) -> None:
        began_s = self._clock.monotonic_s()
        try:
            if self._lease is not None:
                await self._lease.keep_alive()
            if await self._leads(await self.lease()):
                self._leads_until_s = began_s + self._ttl_s
        except LeaseExpiredError:
            log.warning("this orchestrator's lease ran out; others may have claimed what it had")
            self._lease, self._leads_until_s = None, 0.0
        except MetadataUnavailableError as error:
            log.warning("the orchestrator's lease was not renewed: %s", error.message)

    async def _leads(self, lease: Lease) -> bool:
        """Whether we are the leader, after trying to become it where there is none."""
        ours = f"{self.owner} {lease.lease_id}".encode()
        entry = await self._store.get(Keys.LEADER)
        if entry is None:
            return await self._store.compare_and_swap(Keys.LEADER, 0, ours, lease=lease) is not None
        return entry.value == ours
