# SPDX-License-Identifier: Apache-2.0
"""The registry: a watched copy of the store's `models/`, and how records come, change and go.

state        → entered by                        → next
registering  → add                               → ready | failed, by `registration.py`
remote       → add of what lies elsewhere, or    → ready, by `fetches.py`: at the first call, or pulled
               its artifact was lost
ready        → its artifact is there             → remote | removed
failed       → its conversion failed             → removed, or added again
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

from serverlessllm.clock import Clock
from serverlessllm.errors import ConflictError, ModelNotFoundError
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.metadata.store import MetadataStore
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.ingest_job import progress_text
from serverlessllm.orchestrator.watched import Watched
from serverlessllm.wire.admin import AddModel, IngestProgress

LOOK_AGAIN_S: Final = 1.0
_key: Final = lru_cache(4096)(Keys.model)
"""Quoting a name costs more than the rest of a look-up."""


class Models:
    """Names that users call. Reads come from memory, writes go through the store."""

    def __init__(self, store: MetadataStore, changes: Changes, clock: Clock) -> None:
        self._records: Watched[ModelRecord] = Watched(store, Keys.MODELS, ModelRecord, changes)
        self._changes = changes
        self._clock = clock
        self.progress: dict[str, IngestProgress] = {}

    async def start(self) -> None:
        """Read the store. Raises MetadataUnavailableError."""
        await self._records.start()

    async def stop(self) -> None:
        """Stop watching."""
        await self._records.stop()

    def find(self, name: str) -> ModelRecord | None:
        """The record of that name, if there is one."""
        return self._records.get(_key(name))

    def get(self, name: str) -> ModelRecord:
        """The record of that name. Raises ModelNotFoundError."""
        record = self.find(name)
        if record is None:
            raise ModelNotFoundError(
                f"model {name!r} is not registered; see `sllm model list`", param="model"
            )
        return record

    def all(self) -> list[ModelRecord]:
        """Every record, by name."""
        return sorted(self._records.values(), key=lambda record: record.name)

    def uses(self, revision: str) -> bool:
        """Whether some model stands for this revision."""
        return any(record.revision == revision for record in self._records.values())

    async def settled(self, name: str, report: Callable[[str], None]) -> ModelRecord:
        """The record once it is ready or remote; waits while it registers.

        Raises: ModelNotFoundError, also when the registration failed: there is nothing to call.
        """
        while True:
            record = self.get(name)
            if record.state in ("ready", "remote"):
                return record
            if record.state == "failed":
                raise ModelNotFoundError(
                    f"model {name!r} could not be registered: {record.error}; add it again",
                    param="model",
                    source="ingest",
                )
            progress = self.progress.get(name)
            report("registering" if progress is None else progress_text(progress))
            await self._changes.wait(LOOK_AGAIN_S)

    def check_free(self, name: str) -> None:
        """Raises ConflictError when a model of that name is there; a failed one may be replaced."""
        known = self.find(name)
        if known is not None and known.state != "failed":
            raise ConflictError(f"model {name!r} exists ({known.state}); remove it first", param="name")

    async def add(self, request: AddModel, job_id: str | None) -> ModelRecord:
        """Record a model whose job has begun, or one that is remote (`job_id` None). Raises ConflictError."""
        self.check_free(request.name)
        record = ModelRecord(
            name=request.name,
            state="remote" if job_id is None else "registering",
            engine=request.engine,
            source=request.source,
            created_at_s=self._clock.wall_s(),
            dtype=request.dtype,
            keep_alive_s=request.keep_alive_s,
            options=request.options,
            job_id=job_id,
            min_replicas=request.min_replicas,
            max_replicas=request.max_replicas,
        )
        key = Keys.model(request.name)
        return await self._records.write(key, record, replaces=self._records.get(key))

    async def change(self, record: ModelRecord, **fields: object) -> ModelRecord:
        """Write a changed copy of `record`. Raises ConflictError when it is not the current one any more."""
        changed = msgspec.structs.replace(record, **fields)
        return await self._records.write(Keys.model(record.name), changed, replaces=record)

    async def remove(self, name: str) -> None:
        """Forget the name."""
        await self._records.delete(Keys.model(name))
        self.progress.pop(name, None)
