# SPDX-License-Identifier: Apache-2.0
"""Running streams go from agent to agent: their readers get what they would have got from one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.wire.agent import AgentStatus
from serverlessllm.wire.migrate import MigrateResult
from support.moving_reader import MovingReader, migrate
from support.running_agent import AgentClient, Reply, expected, running_agent
from support.simulated_artifact import write_simulated_artifact

SLOW = {"token_s": 0.02}
BODIES: list[dict[str, Any]] = [
    {},
    {"temperature": 1.3, "stream_options": {"include_usage": True}},
    {"n": 2},
    {"logprobs": True, "top_logprobs": 1},
    {"stop": ["Z"]},
]


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_simulated_artifact(tmp_path / "artifacts")


@pytest.fixture
async def nodes(tmp_path: Path, artifact: Artifact) -> AsyncIterator[list[AgentClient]]:
    """Three agents with a replica each."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(running_agent(tmp_path / f"n{n}", engine={"max_num_seqs": 8}))
            for n in range(3)
        ]
        for client in clients:
            await client.loaded(artifact, options=SLOW)
        yield clients


def content_of(reply: Reply) -> dict[int, tuple[str, list[int], list[Any], str | None]]:
    """Of each choice: text, ids, log-probabilities, end."""
    found: dict[int, tuple[str, list[int], list[Any], str | None]] = {}
    for choice in (choice for body in reply.events for choice in body["choices"]):
        text, ids, logprobs, _ = found.get(choice["index"], ("", [], [], None))
        found[choice["index"]] = (
            text + (choice["delta"].get("content") or ""),
            ids + choice["token_ids"],
            logprobs + list((choice.get("logprobs") or {}).get("content") or []),
            choice["finish_reason"],
        )
    return found


def is_unused(status: AgentStatus) -> bool:
    return all(replica.num_running == replica.num_queued == 0 for replica in status.replicas)


async def all_unused(nodes: list[AgentClient]) -> None:
    for node in nodes:
        await node.until(is_unused)


async def test_moved_stream_is_the_unmoved_one_and_its_seat_is_free(
    nodes: list[AgentClient], artifact: Artifact
) -> None:
    a, b, _ = nodes
    reader = MovingReader(nodes, artifact, "r")
    running = asyncio.create_task(reader.read(a, {"max_tokens": 120}))
    await reader.until_tokens(20)
    result = await migrate(a, b, "r")
    assert result.state == "moved", result.message
    await a.until(is_unused)
    reply = await running
    assert reply.token_ids == expected(artifact, 120) and reply.finish == "length"
    assert reply.seqs == sorted(set(reply.seqs)) and reply.seqs[-1] == 120
    assert (reader.num_hops, reader.num_returns) == (1, 0)
    assert await migrate(a, b, "r") == result  # asked again: the same answer
    await all_unused(nodes)


@pytest.mark.parametrize("body", BODIES)
async def test_every_kind_of_answer_moves_back_and_forth(
    nodes: list[AgentClient], artifact: Artifact, body: dict[str, Any]
) -> None:
    body = body | {"max_tokens": 120}
    whole = MovingReader(nodes, artifact, "whole")
    await whole.read(nodes[2], body)
    reader = MovingReader(nodes, artifact, "r")
    running = asyncio.create_task(reader.read(nodes[0], body))
    for hop in range(4):
        await reader.until_tokens(15 * (hop + 1))
        await migrate(reader.at, nodes[(hop + 1) % 2], "r", move_id=f"hop{hop}")
    reply = await running
    assert content_of(reply) == content_of(whole.reply)
    usage = [event.get("usage") for event in reply.events if event.get("usage")]
    assert [u["completion_tokens"] for u in usage] == [
        event["usage"]["completion_tokens"] for event in whole.reply.events if event.get("usage")
    ]
    assert reader.num_hops >= 1
    await all_unused(nodes)


async def moving_at_random(
    nodes: list[AgentClient], artifact: Artifact, dice: random.Random, batch: int
) -> list[MigrateResult]:
    """Some streams, each moved as often as its time allows; their ids are checked."""
    readers = [MovingReader(nodes, artifact, f"b{batch}-r{n}") for n in range(8)]
    tasks = [
        asyncio.create_task(reader.read(dice.choice(nodes), {"max_tokens": 150}, seed=number))
        for number, reader in enumerate(readers)
    ]
    results: list[MigrateResult] = []

    async def move(reader: MovingReader) -> None:
        serial = 0
        while not reader.reply.is_done:
            await reader.until_tokens(len(reader.reply.token_ids) + dice.randint(1, 10))
            to = dice.choice([node for node in nodes if node is not reader.at])
            move_id = f"{reader.request_id}-{serial}"
            results.append(await migrate(reader.at, to, reader.request_id, move_id=move_id))
            serial += 1

    await asyncio.gather(*map(move, readers))
    for number, reply in enumerate(await asyncio.gather(*tasks)):
        assert reply.token_ids == expected(artifact, 150, seed=number)
    return results


async def test_three_hundred_random_moves_of_concurrent_streams_keep_their_ids(
    nodes: list[AgentClient], artifact: Artifact
) -> None:
    dice = random.Random(5)
    num_moved = batch = 0
    while num_moved < 300:
        results = await moving_at_random(nodes, artifact, dice, batch)
        num_moved += sum(result.state == "moved" for result in results)
        batch += 1
    await all_unused(nodes)
