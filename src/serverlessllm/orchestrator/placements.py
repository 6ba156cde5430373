# SPDX-License-Identifier: Apache-2.0
"""Placement records in the store: who may bring a replica up (`attempt`), and where it is.

An attempt is one above the store's revision at the claim. That counter only rises, so that attempts rise too,
even when a record was deleted in between: an agent's fence never refuses a claim that is newer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from itertools import count
from typing import Final

import msgspec

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.errors import ConflictError, MetadataUnavailableError, SllmError
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import PlacementRecord, decode, encode
from serverlessllm.metadata.store import Entry, LeaseExpiredError, MetadataStore
from serverlessllm.orchestrator.tenure import Tenure

log = logging.getLogger(__name__)

FIRST_REPLICA: Final = "0"
"""The replica that a wake-up brings; those that scaling adds are "1", "2", ..."""
MAX_CLAIM_TRIES: Final = 8
DOUBT_S: Final = 2.0
"""How long a record of a ready replica is believed that the agent's event stream does not show."""


class Placements:
    """Claims are compare-and-swaps; what follows a claim is written in the background."""

    def __init__(
        self,
        store: MetadataStore,
        tenure: Tenure | None = None,
        is_alive: Callable[[PlacementRecord], bool] = lambda record: False,
        clock: Clock | None = None,
    ) -> None:
        """`is_alive(record)`: whether its agent is. Without `tenure` claims are not leased, and ours to take."""
        self._store = store
        self._tenure = tenure
        self._owner = "" if tenure is None else tenure.owner
        self._is_alive = is_alive
        self._clock = clock or SystemClock()
        self._doubted: dict[tuple[str, int], float] = {}
        self._claimed: dict[tuple[str, str], int] = {}
        self._writes: set[asyncio.Task[None]] = set()

    def is_ours(self, model: str, attempt: int) -> bool:
        """Whether this process made that claim and has not released it."""
        return any(ours == attempt for (name, _), ours in self._claimed.items() if name == model)

    async def claim(self, model: str, revision: str, agent_id: str, replica: str = FIRST_REPLICA) -> int:
        """Become the one that brings this replica of the model up; returns the attempt.

        Raises: ConflictError while another orchestrator does so, or has just done so; MetadataUnavailableError.
        """
        key = Keys.placement(model, replica)
        for _ in range(MAX_CLAIM_TRIES):
            entries, store_revision = await self._store.range(Keys.placements(model))
            entry = next((entry for entry in entries if entry.key == key), None)
            if entry is not None:
                self._check_free(decode(PlacementRecord, entry))
            known = 0 if entry is None else entry.revision
            record = PlacementRecord(
                model=model,
                replica=replica,
                node=agent_id,
                revision=revision,
                attempt=store_revision + 1,
                state="loading",
                claimant=self._owner,
            )
            lease = None if self._tenure is None else await self._tenure.lease()
            try:
                written = await self._store.compare_and_swap(key, known, encode(record), lease=lease)
            except LeaseExpiredError as error:
                raise MetadataUnavailableError(f"{error.message}; it is being taken anew") from error
            if written is not None and not await self._has_twin(record):
                self._claimed[model, replica] = record.attempt
                return record.attempt
        raise ConflictError(f"others claim the placement of {model} all the time; try again")

    async def _has_twin(self, record: PlacementRecord) -> bool:
        """Whether a claim on another replica of the model, made at the same moment, took the same attempt.

        Both are written before either looks, so that one sees the other at least, and claims anew.
        """
        records = await self.of(record.model)
        return any(other.attempt == record.attempt and other.replica != record.replica for other in records)

    def _check_free(self, record: PlacementRecord) -> None:
        """Raises ConflictError when another orchestrator wakes the model, or it is awake and we do not see it yet."""
        if record.claimant == self._owner or not self._is_alive(record):
            return
        if record.state == "loading":
            raise ConflictError(f"{record.claimant} wakes {record.model} on {record.node}")
        now_s = self._clock.monotonic_s()
        key = (record.model, record.attempt)
        if now_s - self._doubted.setdefault(key, now_s) < DOUBT_S:
            raise ConflictError(f"{record.model} is ready on {record.node}, which will tell")
        del self._doubted[key]

    def is_others(self, record: PlacementRecord) -> bool:
        """Whether another orchestrator brings it up now: its lease sees to the record."""
        return record.state == "loading" and record.claimant != self._owner

    async def next_attempt(self, model: str) -> int:
        """An attempt newer than every claim on the model so far, without claiming."""
        _, store_revision = await self._store.range(Keys.placements(model))
        return store_revision + 1

    def settle(self, model: str, attempt: int, *, is_ready: bool) -> None:
        """Note, in the background, how the attempt ended."""
        if is_ready:
            self._spawn(self._mark_ready(model, attempt))
        else:
            self._spawn(self.release(model, attempt))

    async def release(self, model: str, attempt: int) -> None:
        """Delete the record of this attempt, if it is still there."""
        self._claimed = {
            key: ours for key, ours in self._claimed.items() if key[0] != model or ours != attempt
        }
        while (entry := await self._entry(model, attempt)) is not None:
            if await self._store.delete(entry.key, expect_revision=entry.revision):
                return

    async def adopt(self, model: str, revision: str, agent_id: str, attempt: int) -> None:
        """Record a ready replica that an agent has and the store does not know."""
        records = await self.of(model)
        if any(record.attempt == attempt for record in records):
            return
        replica = free_replica(records)
        record = PlacementRecord(
            model=model, replica=replica, node=agent_id, revision=revision, attempt=attempt, state="ready"
        )
        await self._store.compare_and_swap(Keys.placement(model, replica), 0, encode(record))

    async def of(self, model: str) -> list[PlacementRecord]:
        """The records of one model."""
        entries, _ = await self._store.range(Keys.placements(model))
        return [decode(PlacementRecord, entry) for entry in entries]

    async def all(self) -> list[PlacementRecord]:
        """Every record in the store."""
        entries, _ = await self._store.range(Keys.PLACEMENTS)
        return [decode(PlacementRecord, entry) for entry in entries]

    async def flush(self) -> None:
        """Wait for the writes in the background."""
        while self._writes:
            await asyncio.wait(set(self._writes))

    async def _mark_ready(self, model: str, attempt: int) -> None:
        entry = await self._entry(model, attempt)
        if entry is not None:
            ready = msgspec.structs.replace(decode(PlacementRecord, entry), state="ready")
            await self._store.compare_and_swap(entry.key, entry.revision, encode(ready))

    async def _entry(self, model: str, attempt: int) -> Entry | None:
        """The record of that attempt."""
        entries, _ = await self._store.range(Keys.placements(model))
        return next((entry for entry in entries if decode(PlacementRecord, entry).attempt == attempt), None)

    def _spawn(self, write: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(write)
        self._writes.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writes.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), SllmError):
            log.warning("a placement record was not written: %s", error.message)


def free_replica(records: Iterable[PlacementRecord]) -> str:
    """The first name that no replica of the model has."""
    taken = {record.replica for record in records}
    return next(name for name in map(str, count()) if name not in taken)
