# SPDX-License-Identifier: Apache-2.0
"""Running streams are moved from node to node by their operators: their clients notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.moving_front import MovingFront, moving_front


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MovingFront]:
    async with moving_front(tmp_path) as running:
        yield running


async def test_client_of_a_moved_stream_gets_one_whole_answer(cluster: MovingFront) -> None:
    stream, reading = cluster.start("r", max_tokens=300)
    await stream.until(20)
    source = await cluster.at("r")
    result = await cluster.move("r", cluster.other(source))
    await reading
    assert result["state"] == "moved", result
    assert stream.token_ids == cluster.expected(stream, 300)
    assert stream.seqs == sorted(set(stream.seqs))
    assert {event["id"] for event in stream.events} == {"r"} and stream.errors == []
    view = await cluster.request("r")
    assert [hop["how"] for hop in view["hops"]] == ["begun", "moved"]
    assert view["agent_id"] == cluster.other(source).agent.agent_id
    await cluster.all_unused()


async def test_stream_moves_back_and_forth_and_is_counted_where_it_is(cluster: MovingFront) -> None:
    stream, reading = cluster.start("r", max_tokens=400)
    for hop in range(5):
        await stream.until(20 * (hop + 1))
        result = await cluster.move("r", cluster.other(await cluster.at("r")))
        assert result["state"] == "moved", result
    await reading
    assert stream.token_ids == cluster.expected(stream, 400)
    metrics = (await cluster.front.http.get("/metrics")).text
    assert 'sllm_stream_moves_total{outcome="moved"} 5.0' in metrics
    assert all(replica.num_inflight == 0 for replica in cluster.front.orchestrator._table.all())
    await cluster.all_unused()


async def test_move_without_a_destination_takes_another_node_and_brings_the_model_there(
    cluster: MovingFront,
) -> None:
    stream, reading = cluster.start("r", max_tokens=300)
    await stream.until(10)
    source = await cluster.at("r")
    reply = await cluster.front.http.post("/admin/requests/r/migrate", json={})
    assert reply.json()["destination"] == cluster.other(source).agent.agent_id
    await reading
    assert stream.token_ids == cluster.expected(stream, 300)


async def test_requests_that_cannot_move_are_refused_with_a_reason(cluster: MovingFront) -> None:
    stream, reading = cluster.start("r", max_tokens=300)
    await stream.until(10)
    source = await cluster.at("r")
    http = cluster.front.http
    there = await http.post("/admin/requests/r/migrate", json={"to": source.agent.agent_id})
    nowhere = await http.post("/admin/requests/r/migrate", json={"to": "agent-none"})
    unknown = await http.post("/admin/requests/none/migrate", json={})
    await reading
    over = await http.post("/admin/requests/r/migrate", json={})
    assert [reply.status_code for reply in (there, nowhere, unknown, over)] == [409, 404, 404, 409]
    assert there.json()["error"]["code"] == "migration_refused"


async def test_client_that_leaves_ends_its_request_wherever_it_is(cluster: MovingFront) -> None:
    stream, reading = cluster.start("r", max_tokens=4000)
    await stream.until(10)
    await cluster.move("r", cluster.other(await cluster.at("r")))
    await stream.until(len(stream.token_ids) + 5)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await cluster.all_unused()


async def test_emptied_node_hands_over_twenty_streams_of_three_models_under_load(tmp_path: Path) -> None:
    async with moving_front(tmp_path, 2, num_models=3, token_s=0.02) as cluster:
        first, reading = cluster.start("first", "m0", max_tokens=600)
        await first.until(1)
        node = await cluster.at("first")
        started = [(first, reading)]
        started += [cluster.start(f"r{n}", f"m{n % 3}", max_tokens=600, seed=n) for n in range(1, 20)]
        for stream, _ in started:
            await stream.until(1)
        evacuating = asyncio.create_task(
            cluster.front.http.post(f"/admin/agents/{node.agent.agent_id}/evacuate", json={})
        )
        late = [cluster.start(f"late{n}", f"m{n % 3}", max_tokens=50, seed=n) for n in range(6)]
        reply = (await evacuating).json()
        assert reply["num_left"] == 0
        assert sum(move["result"]["state"] == "moved" for move in reply["moves"]) >= 5
        await node.until(lambda status: status.replicas == [])
        for stream, reading in started + late:
            await reading
            num = 50 if stream.request_id.startswith("late") else 600
            assert stream.token_ids == cluster.expected(stream, num) and stream.errors == []
        after, reading = cluster.start("after", "m0", max_tokens=20)
        await reading
        assert after.token_ids == cluster.expected(after, 20) and await cluster.at("after") is not node
        await cluster.all_unused()
