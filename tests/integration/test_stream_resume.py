# SPDX-License-Identifier: Apache-2.0
"""Streams whose agent, worker or connection dies in the middle: their clients get the uncut answer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.cut_streams import Nodes, Stream, read_stream, running_nodes
from support.front import eventually

LONG: dict[str, Any] = {"max_tokens": 60, "seed": 5}


async def cut_by(
    nodes: Nodes, act: Callable[[], object], body: dict[str, Any] | None = None, *, at: int = 20
) -> Stream:
    """A stream during which `act` is called once, when its client has `at` ids."""
    is_cut = False
    acting: list[asyncio.Task[object]] = []

    def look(stream: Stream) -> None:
        nonlocal is_cut
        if not is_cut and stream.num_ids >= at:
            is_cut = True
            acting.append(asyncio.create_task(asyncio.to_thread(act)))

    stream = await read_stream(nodes.front.http, LONG | (body or {}), on_line=look)
    await asyncio.gather(*acting)
    assert is_cut
    return stream


def check_whole(nodes: Nodes, stream: Stream, *, num: int = 60, seed: int = 5, num_choices: int = 1) -> None:
    """Nothing is lost, nothing doubled."""
    assert (stream.error, stream.is_done) == (None, True)
    expected = {index: nodes.expected(num, seed=seed, choice=index) for index in range(num_choices)}
    assert stream.ids == expected
    assert stream.texts == {index: nodes.text_of(ids) for index, ids in expected.items()}
    assert stream.finishes == dict.fromkeys(range(num_choices), "length")
    assert stream.seqs == sorted(stream.seqs) and stream.seqs[-1] == num * num_choices


async def hops(nodes: Nodes, stream: Stream) -> list[dict[str, Any]]:
    detail = (await nodes.front.http.get(f"/admin/requests/{stream.request_id}")).json()
    found: list[dict[str, Any]] = detail["request"]["hops"]
    return found


@pytest.mark.parametrize(
    ("body", "num_choices"),
    [({}, 1), ({"temperature": 1.5, "stream_options": {"include_usage": True}}, 1), ({"n": 3}, 3)],
)
async def test_agent_killed_in_mid_stream_is_replaced_by_another(
    tmp_path: Path, body: dict[str, Any], num_choices: int
) -> None:
    async with running_nodes(tmp_path, 2) as nodes:
        stream = await cut_by(nodes, lambda: nodes.busy().kill(), body)
        check_whole(nodes, stream, num_choices=num_choices)
        if stream.usage is not None:
            assert stream.usage["completion_tokens"] == 60
        told = await hops(nodes, stream)
        assert [hop["how"] for hop in told] == ["begun", "continued"]
        assert len({hop["agent_id"] for hop in told}) == 2
        metrics = (await nodes.front.http.get("/metrics")).text
        assert 'sllm_resumes_total{outcome="continued",reason="unreachable"} 1.0' in metrics


async def test_worker_killed_in_mid_stream_is_replaced(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 1) as nodes:

        def kill_worker() -> None:
            [replica] = nodes.busy().status().replicas
            assert replica.pid is not None
            os.kill(replica.pid, signal.SIGKILL)

        stream = await cut_by(nodes, kill_worker)
        check_whole(nodes, stream)
        assert [hop["reason"] for hop in await hops(nodes, stream)] == ["", "worker_lost"]


async def test_silent_agent_is_given_up_and_cannot_write_any_more(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 2, stall_timeout_s=0.5) as nodes:
        stopped = []

        def stop() -> None:
            stopped.append(nodes.busy())
            stopped[0].signal(signal.SIGSTOP)

        stream = await cut_by(nodes, stop)
        check_whole(nodes, stream)
        assert [hop["how"] for hop in await hops(nodes, stream)] == ["begun", "continued"]
        stopped[0].signal(signal.SIGCONT)
        await eventually(lambda: all(r.num_running == 0 for r in stopped[0].status().replicas))


async def test_cut_connection_is_attached_to_again(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 1) as nodes:
        loop = asyncio.get_running_loop()

        def cut() -> None:
            [link] = nodes.front.orchestrator.agents.alive()
            loop.call_soon_threadsafe(link.upstream.abort)

        stream = await cut_by(nodes, cut)
        check_whole(nodes, stream)
        assert [hop["how"] for hop in await hops(nodes, stream)] == ["begun", "attached"]


async def test_client_that_leaves_ends_its_run_at_once(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 1, options={"token_s": 0.02}) as nodes:
        begun = asyncio.Event()
        call = asyncio.create_task(
            read_stream(nodes.front.http, {"max_tokens": 3000}, on_line=lambda stream: begun.set())
        )
        await begun.wait()
        call.cancel()
        [agent] = nodes.agents
        await eventually(lambda: [r.num_running for r in agent.status().replicas] == [0])


async def test_stream_that_breaks_too_often_ends_with_a_clear_error(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 1, max_resumes=0) as nodes:
        stream = await cut_by(nodes, lambda: nodes.busy().kill())
        assert stream.is_done and stream.error is not None
        assert stream.error["code"] == "worker_lost"
        assert "did not go on in 0 tries" in stream.error["message"]
        assert stream.ids[0] == nodes.expected(len(stream.ids[0]), seed=5)


async def test_20_streams_survive_an_agents_death(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 2) as nodes:
        others = [
            asyncio.create_task(read_stream(nodes.front.http, {"max_tokens": 60, "seed": seed}))
            for seed in range(100, 119)
        ]
        stream = await cut_by(nodes, lambda: nodes.busy().kill())
        check_whole(nodes, stream)
        for seed, other in zip(range(100, 119), others, strict=True):
            check_whole(nodes, await other, seed=seed)
