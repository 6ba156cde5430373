# SPDX-License-Identifier: Apache-2.0
"""The watched copy of the store's records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from serverlessllm.errors import ConflictError
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.orchestrator.changes import Changes
from serverlessllm.orchestrator.watched import Watched
from support.front import eventually, put_model

KEY = Keys.model("m")
RECORD = ModelRecord(name="m", state="ready", engine="torch", source="/src", created_at_s=1.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "metadata.sqlite", max_changes=8)
    yield store
    await store.close()


@pytest.fixture
async def watched(store: SqliteStore) -> AsyncIterator[Watched[ModelRecord]]:
    watched = Watched(store, Keys.MODELS, ModelRecord, Changes())
    await watched.start()
    yield watched
    await watched.stop()


async def test_own_write_is_seen_at_once(watched: Watched[ModelRecord]) -> None:
    await watched.write(KEY, RECORD, replaces=None)
    assert watched.get(KEY) == RECORD


async def test_others_writes_and_deletes_arrive(store: SqliteStore, watched: Watched[ModelRecord]) -> None:
    await put_model(store, "m")
    await eventually(lambda: watched.get(KEY))
    await store.delete(KEY)
    await eventually(lambda: watched.get(KEY) is None)


async def test_write_over_a_changed_record_is_refused(
    store: SqliteStore, watched: Watched[ModelRecord]
) -> None:
    await watched.write(KEY, RECORD, replaces=None)
    failed = msgspec.structs.replace(RECORD, state="failed")
    await watched.write(KEY, failed, replaces=RECORD)
    with pytest.raises(ConflictError):
        await watched.write(KEY, RECORD, replaces=RECORD)


async def test_write_that_another_process_overtook_is_refused(
    store: SqliteStore, watched: Watched[ModelRecord]
) -> None:
    await put_model(store, "m")
    with pytest.raises(ConflictError):
        await watched.write(KEY, RECORD, replaces=None)


async def test_unreadable_record_is_left_out(store: SqliteStore, watched: Watched[ModelRecord]) -> None:
    await store.put(Keys.model("bad"), b"not json")
    await put_model(store, "m")
    await eventually(lambda: watched.get(KEY))
    assert [record.name for record in watched.values()] == ["m"]


async def test_view_is_whole_after_more_changes_than_the_store_keeps(store: SqliteStore) -> None:
    watched = Watched(store, Keys.MODELS, ModelRecord, Changes())
    await watched.start()
    for index in range(64):
        await put_model(store, f"m{index}")
    await eventually(lambda: len(watched.values()) == 64)
    await watched.stop()
