# SPDX-License-Identifier: Apache-2.0
"""What fails between source and destination, at every step of a move: the answer is whole, and one copy is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.wire.agent import AgentStatus
from serverlessllm.wire.run_name import RunName
from support.faulty_link import Fault, FaultyLink, faulty_link
from support.moving_reader import MovingReader, migrate
from support.running_agent import AgentClient, expected, running_agent
from support.simulated_artifact import write_simulated_artifact

NUM_TOKENS = 700


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_simulated_artifact(tmp_path / "artifacts")


@pytest.fixture
async def nodes(tmp_path: Path, artifact: Artifact) -> AsyncIterator[list[AgentClient]]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(running_agent(tmp_path / f"n{n}")) for n in range(2)]
        for client in clients:
            await client.loaded(artifact, options={"token_s": 0.005})
        yield clients


@pytest.fixture
async def link(nodes: list[AgentClient]) -> AsyncIterator[FaultyLink]:
    """The way from the source to its destination; the reader has one of his own."""
    async with faulty_link(nodes[1].url) as link:
        yield link


def is_unused(status: AgentStatus) -> bool:
    return all(replica.num_running == replica.num_queued == 0 for replica in status.replicas)


@pytest.mark.parametrize(
    ("step", "fault", "ends_at_source"),
    [
        ("open", "cut_before", True),
        ("open", "cut_after", True),
        ("round", "cut_before", True),
        ("round", "cut_after", True),
        ("go", "cut_before", True),
        ("go", "cut_after", False),
        ("go", "hang", True),
    ],
)
async def test_lost_message_leaves_one_copy_and_a_whole_answer(
    nodes: list[AgentClient],
    link: FaultyLink,
    artifact: Artifact,
    step: str,
    fault: Fault,
    ends_at_source: bool,
) -> None:
    a, b = nodes
    reader = MovingReader(nodes, artifact, "r")
    running = asyncio.create_task(reader.read(a, {"max_tokens": NUM_TOKENS}))
    await reader.until_tokens(10)
    link.faults[step] = [fault]
    result = await migrate(a, b, "r", address=link.url)
    await (b if ends_at_source else a).until(is_unused)
    reply = await running
    assert step in link.steps and result.state == ("stayed" if ends_at_source else "moved")
    assert (reader.at is a) == ends_at_source
    assert reply.token_ids == expected(artifact, NUM_TOKENS)
    for node in nodes:
        await node.until(is_unused)


async def test_destination_that_never_answers_is_given_up_by_the_reader(
    nodes: list[AgentClient], link: FaultyLink, artifact: Artifact
) -> None:
    a, b = nodes
    reader = MovingReader(nodes, artifact, "r")
    running = asyncio.create_task(reader.read(a, {"max_tokens": NUM_TOKENS}))
    await reader.until_tokens(10)
    link.faults |= {"go": ["hang"], "abort": ["hang"] * 9}
    moving = asyncio.create_task(migrate(a, b, "r", address=link.url))
    reply = await running  # while the source still asks
    assert reply.token_ids == expected(artifact, NUM_TOKENS)
    assert (reader.at is a, reader.num_returns) == (True, 1)
    assert (await moving).state == "stayed"
    await a.until(is_unused)


async def test_reader_that_takes_the_stream_back_forbids_the_copy_that_runs_already(
    nodes: list[AgentClient], link: FaultyLink, artifact: Artifact
) -> None:
    """The destination's answer is lost, and its link to the reader too: it must not decode on."""
    a, b = nodes
    reader = MovingReader([a, b], artifact, "r")
    running = asyncio.create_task(reader.read(a, {"max_tokens": NUM_TOKENS}))
    await reader.until_tokens(10)
    link.faults |= {"go": ["cut_after"], "abort": ["hang"] * 9}
    reader.is_blind = True
    moving = asyncio.create_task(migrate(a, b, "r", address=link.url))
    await reader.returned.wait()
    assert (await b.cancel(RunName("default", "r", 7, 1))).body == {"cancelled": True}
    await b.until(is_unused)
    assert (await running).token_ids == expected(artifact, NUM_TOKENS)
    assert (await moving).state == "stayed"
    await a.until(is_unused)


async def test_run_that_was_forbidden_before_it_comes_is_refused_and_stays(
    nodes: list[AgentClient], artifact: Artifact
) -> None:
    a, b = nodes
    reader = MovingReader(nodes, artifact, "r")
    running = asyncio.create_task(reader.read(a, {"max_tokens": 300}))
    await reader.until_tokens(10)
    await b.cancel(RunName("default", "r", 7, 1))
    refused = await migrate(a, b, "r", move_id="first")
    assert (refused.state, "over" in refused.message) == ("stayed", True)
    assert (await migrate(a, b, "r", move_id="second")).state == "moved"
    assert (await running).token_ids == expected(artifact, 300)


async def test_move_to_where_it_runs_and_of_what_does_not_run_are_refused(
    nodes: list[AgentClient], artifact: Artifact
) -> None:
    a, b = nodes
    reader = MovingReader(nodes, artifact, "r")
    running = asyncio.create_task(reader.read(a, {"max_tokens": 200}))
    await reader.until_tokens(5)
    assert "runs here already" in (await migrate(a, a, "r")).message
    assert "does not run here" in (await migrate(a, b, "unknown")).message
    first, second = await asyncio.gather(migrate(a, b, "r", move_id="one"), migrate(a, b, "r", move_id="two"))
    assert sorted([first.state, second.state]) == ["moved", "stayed"]
    assert (await running).token_ids == expected(artifact, 200)


async def test_reader_that_leaves_during_a_move_leaves_nothing_behind(
    nodes: list[AgentClient], link: FaultyLink, artifact: Artifact
) -> None:
    a, b = nodes
    reader = MovingReader(nodes, artifact, "r")
    running = asyncio.create_task(reader.read(a, {"max_tokens": 4000}))
    await reader.until_tokens(10)
    name = RunName("default", "r", 7, 9)

    async def cancel(step: str) -> None:
        if step == "go":
            running.cancel()
            await a.cancel(name)
            await b.cancel(name)

    link.on_step = cancel
    await migrate(a, b, "r", address=link.url)
    await asyncio.gather(running, return_exceptions=True)
    for node in nodes:
        await node.until(is_unused)
