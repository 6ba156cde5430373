# SPDX-License-Identifier: Apache-2.0
"""The score's weights change again and again while 100 streams run: no byte of any is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chaos.harness.trio import Trio, check, running_trio
from serverlessllm.sdk.orchestrator import AsyncClient


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[Trio]:
    async with running_trio(tmp_path) as running:
        yield running


async def test_weights_that_change_under_100_streams_drop_no_byte(trio: Trio) -> None:
    streams = asyncio.create_task(trio.ask(100, at_once=100, max_tokens=100))
    async with AsyncClient(trio.front.url) as client:
        for number in itertools.count(1):
            await client.set_weights(w_queue=number % 5, w_kv=number % 3)
            if (await asyncio.wait({streams}, timeout=0.05))[0]:
                break
        assert (await client.weights()).w_queue == number % 5
    check(await streams)
    assert number > 1, "the streams were over before a weight changed"
