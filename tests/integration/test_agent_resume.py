# SPDX-License-Identifier: Apache-2.0
"""Answers that were begun elsewhere, or lost their connection: exactly the rest of them comes, and nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.orchestrator.stream_record import StreamRecord
from serverlessllm.wire import sse
from serverlessllm.wire.agent import AgentStatus
from serverlessllm.wire.openai import Endpoint
from serverlessllm.wire.resume import ResumedChoice, ResumeHead
from serverlessllm.wire.run_name import RunName
from support.running_agent import (
    AgentClient,
    Reply,
    expected,
    running_agent,
)
from support.simulated_artifact import write_simulated_artifact

LONG: dict[str, Any] = {"stream": True, "max_tokens": 200}
SLOW = {"token_s": 0.01}
STUCK = {"prefill_s": 600.0}
BODIES: list[tuple[Endpoint, dict[str, Any]]] = [
    ("chat", {}),
    ("chat", {"seed": 41, "temperature": 1.3, "stream_options": {"include_usage": True}}),
    ("chat", {"n": 3}),
    ("chat", {"logprobs": True, "top_logprobs": 1}),
    ("completions", {"logprobs": 1, "n": 2}),
    ("completions", {"stop": ["Z"], "max_tokens": 60}),
]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[AgentClient]:
    async with running_agent(tmp_path) as client:
        yield client


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_simulated_artifact(tmp_path / "artifacts")


def is_unused(status: AgentStatus) -> bool:
    return all(replica.num_running == replica.num_queued == 0 for replica in status.replicas)


def text_in(choice: dict[str, Any]) -> str:
    return choice["text"] if "text" in choice else choice["delta"].get("content") or ""


def head_after(reply: Reply, num_events: int, num_choices: int) -> ResumeHead:
    """What a reader has who got the first `num_events` of `reply`."""
    ids: list[list[int]] = [[] for _ in range(num_choices)]
    characters, finish = [0] * num_choices, [None] * num_choices
    for body in reply.events[:num_events]:
        for choice in body["choices"]:
            index = choice["index"]
            ids[index] += choice["token_ids"]
            characters[index] += len(text_in(choice))
            finish[index] = choice["finish_reason"]
    choices = [ResumedChoice(*found) for found in zip(ids, characters, finish, strict=True)]
    digest = reply.comments[0].removeprefix("prompt ")
    return ResumeHead(seq=reply.seqs[num_events - 1], prompt_digest=digest, choices=choices)


def by_choice(bodies: list[Any]) -> dict[int, tuple[str, list[int], Any, list[Any], str | None]]:
    """Of each choice: its text, ids, role, log-probabilities and end."""
    found: dict[int, tuple[str, list[int], Any, list[Any], str | None]] = {}
    for choice in (choice for body in bodies for choice in body["choices"]):
        text, ids, role, logprobs, _ = found.get(choice["index"], ("", [], None, [], None))
        role = role or choice.get("delta", {}).get("role")
        found[choice["index"]] = (
            text + text_in(choice),
            ids + choice["token_ids"],
            role,
            logprobs + list((choice["logprobs"] or {}).items()),
            choice["finish_reason"],
        )
    return found


@pytest.mark.parametrize(("endpoint", "body"), BODIES)
async def test_answer_cut_after_any_event_goes_on_as_if_uncut(
    node: AgentClient, artifact: Artifact, endpoint: Endpoint, body: dict[str, Any]
) -> None:
    await node.loaded(artifact)
    body = {"stream": True, "max_tokens": 24} | body
    whole = await node.infer(artifact, body, endpoint=endpoint)
    assert whole.is_done
    num_chunks = sum(bool(event["choices"]) for event in whole.events)
    uncut = by_choice(whole.events)
    for cut in range(1, num_chunks + 1):
        head = head_after(whole, cut, body.get("n", 1))
        rest = await node.resume(artifact, head, body, endpoint=endpoint, hop=cut)
        assert rest.is_done, rest.body
        assert by_choice(whole.events[:cut] + rest.events) == uncut
        assert [seq for seq in rest.seqs if seq <= head.seq and cut < num_chunks] == []
        assert rest.seqs[-1:] in ([], whole.seqs[-1:])
        assert [event["usage"]["completion_tokens"] for event in rest.events if event.get("usage")] == [
            event["usage"]["completion_tokens"] for event in whole.events if event.get("usage")
        ]


async def test_another_prompt_than_the_cut_streams_is_refused(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    head = ResumeHead(seq=1, prompt_digest="0" * 32, choices=[ResumedChoice([5], 1)])
    reply = await node.resume(artifact, head, {"stream": True})
    assert (reply.status, reply.code) == (409, "cannot_resume")


async def test_text_that_does_not_come_out_here_is_refused(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    whole = await node.infer(artifact, {"stream": True})
    head = ResumeHead(
        seq=1,
        prompt_digest=whole.comments[0].removeprefix("prompt "),
        choices=[ResumedChoice(whole.token_ids[:1], 1000)],
    )
    reply = await node.resume(artifact, head, {"stream": True})
    assert (reply.status, reply.code) == (409, "cannot_resume")


async def cut_after(node: AgentClient, artifact: Artifact, num_events: int) -> Reply:
    """Read that much of a long stream, then let the connection break."""
    enough = asyncio.Event()
    seen = Reply(0)

    def look(reply: Reply) -> None:
        nonlocal seen
        seen = reply
        if len(reply.seqs) >= num_events and len(reply.events) == len(reply.seqs):
            enough.set()

    call = asyncio.create_task(node.infer(artifact, LONG, on_line=look))
    await enough.wait()
    call.cancel()
    await asyncio.wait({call})
    return seen


async def test_stream_that_lost_its_connection_goes_on_for_who_attaches(
    node: AgentClient, artifact: Artifact
) -> None:
    await node.loaded(artifact, options=SLOW)
    begun = await cut_after(node, artifact, 5)
    seq = begun.seqs[len(begun.events) - 1]
    rest = await node.attach(seq)
    assert begun.token_ids + rest.token_ids == expected(artifact, 200)
    assert (rest.is_done, rest.comments) == (True, begun.comments)
    await node.until(is_unused)


async def test_ended_orphan_is_kept_for_who_comes_late(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, options={"token_s": 0.001})
    await cut_after(node, artifact, 3)
    await node.until(is_unused)
    again = await node.attach(0)
    assert (again.token_ids, again.is_done) == (expected(artifact, 200), True)
    end = await node.attach(200)
    assert (end.events, end.is_done) == ([], True)


async def test_orphan_that_nobody_claims_gives_its_seat_back(tmp_path: Path, artifact: Artifact) -> None:
    async with running_agent(tmp_path, agent={"orphan_grace_s": 0.05}) as node:
        await node.loaded(artifact, options={"token_s": 1.0})
        await cut_after(node, artifact, 1)
        await node.until(is_unused)
        assert (await node.attach(0)).code == "not_found"
        metrics = (await node.agent.render_metrics()).decode()
        assert 'sllm_orphans_ended_total{outcome="expired"} 1.0' in metrics
        assert "sllm_orphans 0.0" in metrics


async def test_later_reader_displaces_the_earlier_one(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, options=SLOW)
    begun = asyncio.Event()
    first = asyncio.create_task(node.infer(artifact, LONG, on_line=lambda reply: begun.set()))
    await begun.wait()
    later = await node.attach(0)
    displaced = await first
    assert later.token_ids == expected(artifact, 200)
    assert displaced.events[-1]["error"]["code"] == "answer_gone"


async def test_cancel_ends_a_stream_in_decode(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, options={"token_s": 1.0})
    begun = asyncio.Event()
    call = asyncio.create_task(node.infer(artifact, LONG, on_line=lambda reply: begun.set()))
    await begun.wait()
    assert (await node.cancel()).body == {"cancelled": True}
    assert (await call).events[-1]["error"]["code"] == "answer_gone"
    await node.until(is_unused)


async def test_cancel_ends_a_stream_in_prefill_and_in_the_queue(tmp_path: Path, artifact: Artifact) -> None:
    async with running_agent(tmp_path, engine={"max_num_seqs": 1}) as node:
        await node.loaded(artifact, options=STUCK)
        calls = [asyncio.create_task(node.infer(artifact, LONG, request_id=f"r{i}")) for i in range(3)]
        await node.until(lambda status: status.replicas[0].num_queued == 1)
        for index in range(3):
            await node.cancel(RunName("default", f"r{index}", seed=7))
        assert [(await call).code for call in calls] == ["answer_gone"] * 3
        await node.until(is_unused)


async def test_cancelled_run_that_comes_late_is_refused_and_the_next_one_is_not(
    node: AgentClient, artifact: Artifact
) -> None:
    await node.loaded(artifact)
    run = RunName("default", "late", seed=7)
    assert (await node.cancel(run)).body == {"cancelled": False}
    assert (await node.infer(artifact, {"stream": True}, request_id="late")).code == "stale_attempt"
    later = await node.infer(artifact, {"stream": True}, request_id="late", hop=1)
    assert later.token_ids == expected(artifact, 8)


async def test_later_run_ends_the_earlier_one(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, options=SLOW)
    begun = asyncio.Event()
    first = asyncio.create_task(
        node.infer(artifact, LONG, on_line=lambda reply: begun.set(), request_id="same")
    )
    await begun.wait()
    second = await node.infer(artifact, LONG, request_id="same", hop=1)
    assert second.token_ids == expected(artifact, 200)
    assert (await first).events[-1]["error"]["code"] == "answer_gone"
    assert (await node.infer(artifact, LONG, request_id="same")).code == "stale_attempt"


async def test_another_tenant_does_not_get_at_an_answer(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, options=SLOW)
    await cut_after(node, artifact, 1)
    stranger = RunName("stranger", "req-1", seed=7)
    assert (await node.attach(0, stranger)).code == "not_found"
    assert (await node.cancel(stranger)).body == {"cancelled": False}
    assert (await node.attach(0)).token_ids == expected(artifact, 200)


async def test_continued_stream_can_be_attached_to_from_its_beginning(
    node: AgentClient, artifact: Artifact
) -> None:
    await node.loaded(artifact)
    whole = await node.infer(artifact, LONG, request_id="first")
    await node.resume(artifact, head_after(whole, 20, 1), LONG)
    again = await node.attach(0)
    assert (again.token_ids, again.seqs) == (whole.token_ids, whole.seqs)
    assert by_choice(again.events) == by_choice(whole.events)


@pytest.mark.parametrize(
    "body", [{}, {"n": 2, "seed": 3}, {"stop": ["é", "ing"]}, {"logprobs": True, "top_logprobs": 1}]
)
async def test_stream_cut_at_any_byte_goes_on_from_what_its_client_got(
    node: AgentClient, artifact: Artifact, body: dict[str, Any]
) -> None:
    await node.loaded(artifact)
    body = {"stream": True, "max_tokens": 16} | body
    whole = await node.raw(artifact, body)
    uncut = Reply(200)
    for line in whole.decode().split("\n"):
        uncut.add_line(line)
    for hop, cut in enumerate(range(200, len(whole) - len(sse.DONE), 61), start=1):
        relay, record, client = sse.StreamRelay(), StreamRecord(body.get("n", 1)), Reply(200)
        if events := relay.feed(whole[:cut]):
            record.keep(events)
            record.seq, record.prompt_digest = relay.seq, relay.prompt_digest or ""
            rest = await node.resume(artifact, record.head(), body, hop=hop)
            for line in events.decode().split("\n"):
                client.add_line(line)
            assert rest.is_done, rest.body
            assert by_choice(client.events + rest.events) == by_choice(uncut.events), cut
