# SPDX-License-Identifier: Apache-2.0
"""Streams whose agent, worker or connection dies in the middle: their clients get the uncut answer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.cut_streams import Nodes, Stream, read_stream, running_nodes
from support.front import MODEL, Front, eventually, running_front

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


@asynccontextmanager
async def another_front(nodes: Nodes, home: Path) -> AsyncIterator[Front]:
    """A second front over the same agents and model."""
    home.mkdir()
    urls = [agent.url for agent in nodes.agents]
    record = nodes.front.orchestrator.models.get(MODEL)
    fields = {name: getattr(record, name) for name in ("engine", "revision", "artifact", "nbytes", "options")}
    async with running_front(home, [], addresses=urls, models={MODEL: fields}, wait=False) as front:
        await eventually(lambda: len(front.orchestrator.agents.alive()) == len(urls))
        yield front


async def lose_front(nodes: Nodes, body: dict[str, Any], headers: dict[str, str], *, at: int) -> Stream:
    """What a client has of its stream when its front goes: it tells no agent of it."""
    nodes.front.orchestrator.proxy.begin_stop()
    stream, enough = Stream(), asyncio.Event()

    def look(seen: Stream) -> None:
        if seen.num_ids >= at and len(seen.seqs) == seen.num_events:
            enough.set()

    reading = read_stream(nodes.front.http, body, headers=headers, stream=stream, on_line=look)
    call = asyncio.create_task(reading)
    await enough.wait()
    call.cancel()
    await asyncio.wait({call})
    if len(stream.seqs) > stream.num_events:
        stream.seqs.pop()  # half an event
    return stream


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

        def look(stream: Stream) -> None:
            if stream.num_ids:
                begun.set()

        call = asyncio.create_task(read_stream(nodes.front.http, {"max_tokens": 3000}, on_line=look))
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


@pytest.mark.parametrize("body", [{}, {"n": 2}])
async def test_client_that_lost_its_front_gets_the_rest_from_another(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    """Two fronts know the same agents; the first loses its client without telling anybody, as when it is killed."""
    async with running_nodes(tmp_path, 1) as nodes, another_front(nodes, tmp_path / "second") as second:
        name = {"x-request-id": "mine-1"}
        stream = await lose_front(nodes, LONG | body, name, at=20)
        back = name | {"Last-Event-ID": str(stream.seqs[-1])}
        await read_stream(second.http, LONG | body, headers=back, stream=stream)
        check_whole(nodes, stream, num_choices=body.get("n", 1))


async def test_stream_that_came_back_survives_its_agent_too(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 2) as nodes, another_front(nodes, tmp_path / "second") as second:
        name = {"x-request-id": "mine-1"}
        stream = await lose_front(nodes, LONG, name, at=15)
        back = name | {"Last-Event-ID": str(stream.seqs[-1])}
        killed: list[asyncio.Task[object]] = []

        def kill(seen: Stream) -> None:
            if seen.num_ids >= 30 and not killed:
                killed.append(asyncio.create_task(asyncio.to_thread(lambda: nodes.busy().kill())))

        await read_stream(second.http, LONG, headers=back, stream=stream, on_line=kill)
        await asyncio.gather(*killed)
        check_whole(nodes, stream)


async def test_answer_that_is_gone_is_410_and_malformed_event_ids_are_400(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 1) as nodes:
        http = nodes.front.http
        gone = await read_stream(http, LONG, headers={"x-request-id": "x", "Last-Event-ID": "7"})
        assert gone.error is not None and gone.error["code"] == "answer_gone"
        odd = await read_stream(http, LONG, headers={"x-request-id": "x", "Last-Event-ID": "-1"})
        assert odd.error is not None and odd.error["param"] == "Last-Event-ID"
        unnamed = await read_stream(http, LONG, headers={"Last-Event-ID": "1"})
        assert unnamed.error is not None and unnamed.error["param"] == "x-request-id"
        fresh = await read_stream(http, LONG, headers={"x-request-id": "x", "Last-Event-ID": "0"})
        check_whole(nodes, fresh)


@pytest.mark.parametrize("options", [{"token_s": 0.02}, {"prefill_s": 600.0}])
async def test_stopped_worker_is_replaced_before_and_after_the_first_token(
    tmp_path: Path, options: dict[str, float]
) -> None:
    """In the second case the fresh worker is as slow as the first: it is the first one's end that counts."""
    async with running_nodes(tmp_path, 1, options=options, agent={"stopped_worker_grace_s": 0.4}) as nodes:
        [agent] = nodes.agents
        call = asyncio.create_task(read_stream(nodes.front.http, LONG))
        await eventually(lambda: any(replica.num_running for replica in agent.status().replicas))
        [replica] = agent.status().replicas
        assert replica.pid is not None
        os.kill(replica.pid, signal.SIGSTOP)
        await eventually(
            lambda: (
                any(r.num_running and r.pid not in (None, replica.pid) for r in agent.status().replicas)
                or call.done()
            )
        )
        if "token_s" in options:
            check_whole(nodes, await call)
        call.cancel()
        await asyncio.wait({call})
