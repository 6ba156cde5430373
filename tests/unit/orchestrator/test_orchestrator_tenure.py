# SPDX-License-Identifier: Apache-2.0
"""One leader among orchestrators, and claims that end with the orchestrator that made them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serverlessllm.clock import SystemClock
from serverlessllm.errors import ConflictError
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.orchestrator.placements import Placements
from serverlessllm.orchestrator.tenure import Tenure
from serverlessllm.wire import WIRE_VERSION, is_compatible


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "m.sqlite", poll_s=0.01)
    yield store
    await store.close()


def tenure(store: SqliteStore, owner: str) -> Tenure:
    return Tenure(store, owner, SystemClock(), ttl_s=60.0)


async def test_one_of_two_leads_and_the_other_follows_when_it_stops(store: SqliteStore) -> None:
    first, second = tenure(store, "a"), tenure(store, "b")
    await first.start()
    await second.start()
    assert (first.is_leader, second.is_leader) == (True, False)
    await first.stop()
    third = tenure(store, "c")
    await third.start()
    assert (first.is_leader, third.is_leader) == (False, True)
    await second.stop()
    await third.stop()


async def test_claim_of_a_living_orchestrator_is_left_alone_and_goes_with_it(store: SqliteStore) -> None:
    ours, theirs = tenure(store, "a"), tenure(store, "b")
    one = Placements(store, ours, lambda record: True)
    other = Placements(store, theirs, lambda record: True)
    attempt = await one.claim("m", "r", "agent")
    with pytest.raises(ConflictError, match="a wakes m"):
        await other.claim("m", "r", "agent")
    await ours.start()
    await ours.stop()
    assert await other.claim("m", "r", "agent") > attempt
    await theirs.stop()


def test_neighbouring_wire_versions_understand_each_other_and_others_do_not() -> None:
    assert [is_compatible(WIRE_VERSION + step) for step in (-2, -1, 0, 1, 2)] == [
        False,
        True,
        True,
        True,
        False,
    ]
