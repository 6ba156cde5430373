# SPDX-License-Identifier: Apache-2.0
"""Tell a running platform where a model's artifact can be had beside its own disk.

As publishing does (`ingest.publish`), but for origins that nobody published to. Writes into the platform's own
store, which watches for the writes of others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from serverlessllm.metadata import records
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.sqlite import SqliteStore


def set_origins(data_dir: Path, model: str, origins: Sequence[str]) -> None:
    """From now on loads of `model` take what the disk lacks from `origins`. Raises KeyError for an unknown model."""
    asyncio.run(_set(data_dir / "metadata.sqlite", model, list(origins)))


async def _set(path: Path, model: str, origins: list[str]) -> None:
    store = await SqliteStore.open(path)
    try:
        entry = await store.get(Keys.model(model))
        if entry is None:
            raise KeyError(model)
        record = records.decode(records.ModelRecord, entry)
        await store.put(entry.key, records.encode(msgspec.structs.replace(record, origins=origins)))
    finally:
        await store.close()
