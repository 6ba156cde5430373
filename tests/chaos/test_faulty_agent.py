# SPDX-License-Identifier: Apache-2.0
"""One of three agents answers 500, is dead, or dies under its streams: nobody notices, and it gets less to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chaos.harness.trio import Trio, check, running_trio
from support.platform import eventually


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[Trio]:
    async with running_trio(tmp_path) as running:
        yield running


async def test_agent_that_answers_500_fails_no_request_and_gets_less_to_do(trio: Trio) -> None:
    trio.proxies[0].fails = True
    check(await trio.ask(200, at_once=20, max_tokens=10))
    bad, *good = [proxy.num_requests for proxy in trio.proxies]
    assert bad < min(good) / 2


async def test_agent_that_is_dead_fails_no_request(trio: Trio) -> None:
    trio.agents[0].kill()
    check(await trio.ask(200, at_once=20, max_tokens=10))


async def test_agent_that_dies_under_100_streams_cuts_none(trio: Trio) -> None:
    streams = asyncio.create_task(trio.ask(100, at_once=100, max_tokens=300))
    doomed = trio.proxies[0]
    await asyncio.to_thread(
        eventually, lambda: doomed.num_open >= 10 and doomed.num_blocks >= 3 * doomed.num_open
    )
    await asyncio.to_thread(trio.agents[0].kill)
    check(await streams)
