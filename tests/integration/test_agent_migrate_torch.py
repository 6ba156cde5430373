# SPDX-License-Identifier: Apache-2.0
"""Streams of the embedded engine go from agent to agent, computed anew or copied: the ids are those of one agent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.ingest.convert import convert
from support.model_dirs import write_tiny_llama
from support.moving_reader import MovingReader, migrate
from support.running_agent import AgentClient, running_agent

LONG = "Tell me a story of foxes, and of the dogs that they meet. " * 12
MARGIN = 1e-3


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    report = convert(write_tiny_llama(tmp_path / "hf", seed=4), tmp_path / "artifacts")
    return Artifact.open(tmp_path / "artifacts" / report.revision)


@pytest.fixture
async def nodes(tmp_path: Path, artifact: Artifact) -> AsyncIterator[list[AgentClient]]:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(running_agent(tmp_path / f"n{n}", engines=["torch"]))
            for n in range(2)
        ]
        for client in clients:
            await client.loaded(artifact, engine="torch")
        yield clients


def body(number: int) -> dict[str, Any]:
    """Greedy ones say how sure they were; sampled ones have penalties."""
    prompt = [{"role": "user", "content": f"{number}. {LONG}"}]
    if number % 2:
        sampled = {"temperature": 0.9, "frequency_penalty": 0.3, "seed": number}
        return {"messages": prompt, "max_tokens": 400, "ignore_eos": True, **sampled}
    greedy = {"temperature": 0, "logprobs": True, "top_logprobs": 2}
    return {"messages": prompt, "max_tokens": 700, "ignore_eos": True, **greedy}


def assert_alike(moved: MovingReader, whole: MovingReader) -> None:
    """Equal ids, or the unmoved answer was undecided where they part."""
    got, expected = moved.reply.token_ids, whole.reply.token_ids
    assert len(got) == len(expected)
    if got == expected:
        return
    first = next(index for index, pair in enumerate(zip(got, expected, strict=True)) if pair[0] != pair[1])
    entries = [
        entry
        for event in whole.reply.events
        for choice in event["choices"]
        for entry in (choice.get("logprobs") or {"content": []})["content"]
    ]
    likely = [top["logprob"] for top in entries[first]["top_logprobs"]]
    assert likely[0] - likely[1] < MARGIN


@pytest.mark.parametrize("mode", ["recompute", "copy"])
async def test_streams_that_move_back_and_forth_give_the_ids_of_unmoved_ones(
    nodes: list[AgentClient], artifact: Artifact, mode: str
) -> None:
    dice = random.Random(3)
    wholes = [MovingReader(nodes, artifact, f"whole{n}") for n in range(3)]
    await asyncio.gather(*(whole.read(nodes[0], body(n), seed=n) for n, whole in enumerate(wholes)))
    readers = [MovingReader(nodes, artifact, f"r{n}") for n in range(3)]
    tasks = [asyncio.create_task(r.read(nodes[n % 2], body(n), seed=n)) for n, r in enumerate(readers)]
    results = []

    async def move(reader: MovingReader) -> None:
        for serial in range(4):
            await reader.until_tokens(len(reader.reply.token_ids) + dice.randint(2, 15))
            if reader.reply.is_done:
                return
            to = next(node for node in nodes if node is not reader.at)
            move_id = f"{reader.request_id}-{serial}"
            results.append(await migrate(reader.at, to, reader.request_id, move_id=move_id, mode=mode))

    await asyncio.gather(*map(move, readers))
    await asyncio.gather(*tasks)
    for reader, whole in zip(readers, wholes, strict=True):
        assert_alike(reader, whole)
    moved = [result for result in results if result.state == "moved"]
    assert moved, results
    assert all((result.copied_bytes > 0) == (result.mode == "copy") for result in moved)
    assert any(result.mode == mode for result in moved)
