# SPDX-License-Identifier: Apache-2.0
"""Claims on a model's placement: one winner, attempts that only rise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.orchestrator.placements import Placements


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "metadata.sqlite")
    yield store
    await store.close()


async def test_claim_is_recorded_with_its_agent(store: SqliteStore) -> None:
    placements = Placements(store)
    attempt = await placements.claim("org/m", "r", "agent-1")
    [record] = await placements.all()
    assert (record.model, record.node, record.attempt, record.state) == (
        "org/m",
        "agent-1",
        attempt,
        "loading",
    )
    assert placements.is_ours("org/m", attempt)


async def test_each_claim_has_a_higher_attempt_even_after_a_release(store: SqliteStore) -> None:
    placements = Placements(store)
    first = await placements.claim("m", "r", "a")
    await placements.release("m", first)
    second = await placements.claim("m", "r", "a")
    assert second > first and await placements.next_attempt("m") > second


async def test_concurrent_claims_of_several_orchestrators_get_different_attempts(store: SqliteStore) -> None:
    claims = [Placements(store).claim("m", "r", f"agent-{index}") for index in range(4)]
    attempts = await asyncio.gather(*claims)
    assert len(set(attempts)) == 4
    [record] = await Placements(store).all()
    assert record.attempt == max(attempts)


async def test_concurrent_claims_on_several_replicas_get_different_attempts(store: SqliteStore) -> None:
    claims = [Placements(store).claim("m", "r", f"agent-{index}", str(index)) for index in range(3)]
    attempts = await asyncio.gather(*claims)
    assert len(set(attempts)) == 3
    assert sorted(record.attempt for record in await Placements(store).all()) == sorted(attempts)


async def test_ready_replica_is_recorded(store: SqliteStore) -> None:
    placements = Placements(store)
    placements.settle("m", await placements.claim("m", "r", "a"), is_ready=True)
    await placements.flush()
    assert [record.state for record in await placements.all()] == ["ready"]


async def test_failed_attempt_leaves_no_record(store: SqliteStore) -> None:
    placements = Placements(store)
    placements.settle("m", await placements.claim("m", "r", "a"), is_ready=False)
    await placements.flush()
    assert await placements.all() == []


async def test_release_of_an_old_attempt_leaves_the_newer_claim(store: SqliteStore) -> None:
    placements = Placements(store)
    old = await placements.claim("m", "r", "a")
    new = await placements.claim("m", "r", "b")
    await placements.release("m", old)
    assert [record.attempt for record in await placements.all()] == [new]
    assert placements.is_ours("m", new)
