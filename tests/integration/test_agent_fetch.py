# SPDX-License-Identifier: Apache-2.0
"""Loads of an agent over HTTP from an origin over HTTP: who leaves stops them, who matters more gets more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.config import MIB
from support.plain_reader import read_tensors
from support.platform import eventually
from support.ranged_server import RangedServer
from support.running_agent import AgentClient, Reply, running_agent
from support.simulated_artifact import write_simulated_artifact

SETTINGS: dict[str, dict[str, Any]] = {
    "ingest": {"allow_private_urls": True},
    "arena": {"budget_bytes": 320 * MIB},
}
CHUNK_BYTES = 8 * MIB


@pytest.fixture
def artifacts(tmp_path: Path) -> list[Artifact]:
    """One of twelve chunks, one of twenty-four."""
    return [
        write_simulated_artifact(tmp_path / "a", nbytes=num_chunks * CHUNK_BYTES) for num_chunks in (12, 24)
    ]


@pytest.fixture
def origin(artifacts: list[Artifact]) -> Iterator[RangedServer]:
    objects = {
        f"/{one.revision}/{path.name}": path.read_bytes()
        for one in artifacts
        for path in one.directory.iterdir()
    }
    with RangedServer(objects, bytes_per_s=200e6) as server:
        yield server


def weights_bytes(origin: RangedServer, artifact: Artifact) -> int:
    """What was asked for of an artifact's weights."""
    return sum(
        one.end - one.start for one in origin.served.requests if one.path == f"/{artifact.revision}/model.bin"
    )


def start(
    node: AgentClient, here: Path, origin: RangedServer, artifact: Artifact, model: str, **fields: object
) -> asyncio.Task[Reply]:
    """`POST /load` of an artifact that is not here."""
    body = {
        "model": model,
        "revision": artifact.revision,
        "artifact": str(here / artifact.revision),
        "engine": "simulated",
        "origins": [origin.url(f"/{artifact.revision}/")],
        "attempt": 1,
    }
    return asyncio.create_task(node.post("/load", body | fields))


async def test_last_caller_who_leaves_stops_the_fetch_and_what_is_complete_is_kept(
    tmp_path: Path, origin: RangedServer, artifacts: list[Artifact]
) -> None:
    artifact, here = artifacts[0], tmp_path / "d" / "artifacts"
    # A load that answers before its bytes are there is its replica's: `test_agent_layer_stream.py` cancels those.
    settings = SETTINGS | {"sources": {"connections": 2}, "engine": {"layer_streaming": False}}
    async with running_agent(tmp_path / "d", **settings) as node:
        calls = [start(node, here, origin, artifact, "m") for _ in range(2)]
        await node.until(lambda status: any(load.done_bytes >= 24 * MIB for load in status.loads))
        calls[0].cancel()
        await node.until(lambda status: any(load.done_bytes >= 32 * MIB for load in status.loads))
        calls[1].cancel()
        status = await node.until(lambda status: not status.loads and not status.replicas)
        assert (status.arena_used_bytes, status.regions) == (0, [])
        assert [path.name for path in here.iterdir()] == [f".fetch-{artifact.revision}"]
        asked_bytes = weights_bytes(origin, artifact)
        assert asked_bytes < artifact.index.weights_nbytes
        again = await start(node, here, origin, artifact, "m", attempt=2)
        assert again.status == 200
        assert weights_bytes(origin, artifact) - asked_bytes <= artifact.index.weights_nbytes - 32 * MIB
        await asyncio.to_thread(eventually, (here / artifact.revision).is_dir)
        assert read_tensors(here / artifact.revision) == read_tensors(artifact.directory)


async def test_fetch_of_higher_priority_gets_more_of_the_network(
    tmp_path: Path, origin: RangedServer, artifacts: list[Artifact]
) -> None:
    gold, plain = artifacts
    here = tmp_path / "d" / "artifacts"
    origin.bytes_per_s = 2e6  # the first chunks are under way until the other load is there
    async with running_agent(tmp_path / "d", **SETTINGS, sources={"connections": 4}) as node:
        first = start(node, here, origin, plain, "plain")
        await node.until(lambda status: weights_bytes(origin, plain) >= 4 * CHUNK_BYTES)
        second = start(node, here, origin, gold, "gold", priority=2)
        await node.until(lambda status: weights_bytes(origin, gold) >= 4 * CHUNK_BYTES)
        before_bytes, origin.bytes_per_s = weights_bytes(origin, plain), 200e6
        assert (await second).status == 200
        # One connection beside four: about three chunks while the other brings its twelve.
        assert weights_bytes(origin, plain) - before_bytes <= 6 * CHUNK_BYTES
        assert (await first).status == 200
