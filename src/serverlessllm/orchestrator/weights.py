# SPDX-License-Identifier: Apache-2.0
"""The score's weights: a watched copy of the store's `scheduler/weights`, the same for every orchestrator."""

from __future__ import annotations

from collections.abc import Mapping

from serverlessllm.clock import Clock
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import WeightsRecord
from serverlessllm.metadata.store import MetadataStore
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.watched import Watched
from serverlessllm.wire.scheduler import ScoreWeights

DEFAULTS = ScoreWeights()


class Weights:
    """`start`, then `current` for every decision. While the store is away the last ones hold."""

    def __init__(self, store: MetadataStore, changes: Changes, clock: Clock) -> None:
        self._records: Watched[WeightsRecord] = Watched(store, Keys.SCHEDULER_WEIGHTS, WeightsRecord, changes)
        self._clock = clock
        self._seen: WeightsRecord | None = None
        self._by_term = DEFAULTS.by_term()

    async def start(self) -> None:
        """Read the store, follow it. Raises MetadataUnavailableError."""
        await self._records.start()

    async def stop(self) -> None:
        """Stop following."""
        await self._records.stop()

    def get(self) -> ScoreWeights:
        """What was set last, the defaults if nothing ever was."""
        record = self._records.get(Keys.SCHEDULER_WEIGHTS)
        return DEFAULTS if record is None else record.weights

    @property
    def current(self) -> Mapping[str, float]:
        """Term → factor."""
        record = self._records.get(Keys.SCHEDULER_WEIGHTS)
        if record is not self._seen:
            self._seen, self._by_term = record, self.get().by_term()
        return self._by_term

    async def set(self, weights: ScoreWeights) -> ScoreWeights:
        """Let these count from now on, everywhere. Raises ConflictError when another was faster;
        MetadataUnavailableError."""
        known = self._records.get(Keys.SCHEDULER_WEIGHTS)
        record = WeightsRecord(weights=weights, changed_at_s=self._clock.wall_s())
        return (await self._records.write(Keys.SCHEDULER_WEIGHTS, record, replaces=known)).weights
