# SPDX-License-Identifier: Apache-2.0
"""`/infer` of a real agent with simulated workers: exact ids, framing, limits, queues, cancellation."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.engine.simulated.engine import expected_ids
from serverlessllm.text.tokenizer import TextModel
from serverlessllm.wire.agent import AGENT_TIMING_HEADER, AgentStatus, InferTiming
from support.running_agent import CHAT, AgentClient, expected, running_agent, text_of
from support.simulated_artifact import CONTEXT_TOKENS, VOCAB_SIZE, write_simulated_artifact

ENDLESS: dict[str, Any] = {"max_tokens": 3000, "stream": True}
SLOW = {"token_s": 0.02}
STUCK = {"prefill_s": 600.0}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[AgentClient]:
    """Without orphans: who leaves a stream ends it."""
    async with running_agent(tmp_path, agent={"orphan_grace_s": 0.0}) as client:
        yield client


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_simulated_artifact(tmp_path / "artifacts")


def is_unused(status: AgentStatus) -> bool:
    return all(replica.num_running == replica.num_queued == 0 for replica in status.replicas)


async def test_stream_delivers_exactly_the_sampled_ids(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    reply = await node.infer(artifact, {"stream": True, "max_tokens": 40})
    ids = expected(artifact, 40)
    assert reply.token_ids == ids
    assert reply.text == text_of(artifact, ids)
    assert (reply.finish, reply.is_done, reply.seqs[-1]) == ("length", True, 40)
    assert reply.seqs == sorted(set(reply.seqs))


async def test_stream_starts_with_prompt_digest_and_role(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    reply = await node.infer(artifact, {"stream": True})
    prompt_ids = TextModel.load(artifact).encode_chat(CHAT)
    digest = blake3(struct.pack(f"<{len(prompt_ids)}I", *prompt_ids)).hexdigest()[:32]
    assert reply.comments == [f"prompt {digest}"]
    first = reply.events[0]
    assert (first["object"], first["id"], first["created"]) == (
        "chat.completion.chunk",
        "req-1",
        1_700_000_000,
    )
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in reply.events[1:])
    timing = msgspec.json.decode(reply.headers[AGENT_TIMING_HEADER], type=InferTiming)
    assert timing.prompt_tokens == len(prompt_ids)


async def test_usage_chunk_comes_last_where_asked_for(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    reply = await node.infer(artifact, {"stream": True, "stream_options": {"include_usage": True}})
    assert reply.events[-1]["choices"] == []
    assert reply.events[-1]["usage"]["completion_tokens"] == 8
    assert all(chunk["usage"] is None for chunk in reply.events[:-1])


async def test_whole_answer_is_one_completion(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    reply = await node.infer(artifact)
    ids = expected(artifact, 8)
    num_prompt = len(TextModel.load(artifact).encode_chat(CHAT))
    assert (reply.status, reply.body["object"]) == (200, "chat.completion")
    assert (reply.token_ids, reply.text, reply.finish) == (ids, text_of(artifact, ids), "length")
    assert reply.body["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 8,
        "total_tokens": num_prompt + 8,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.parametrize("prompt", ["Once upon", [40, 41, 42]])
async def test_text_completion_takes_text_or_ids(
    node: AgentClient, artifact: Artifact, prompt: str | list[int]
) -> None:
    await node.loaded(artifact)
    prompt_ids = prompt if isinstance(prompt, list) else TextModel.load(artifact).encode(prompt)
    reply = await node.infer(artifact, {"prompt": prompt, "seed": 3}, endpoint="completions")
    ids = expected_ids(prompt_ids, 3, 0, 8, vocab_size=VOCAB_SIZE)
    assert reply.body["object"] == "text_completion"
    assert reply.token_ids == ids
    assert reply.body["choices"][0]["text"].strip() == text_of(artifact, ids).strip()


async def test_64_concurrent_requests_all_get_their_own_ids(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, options={"token_s": 0.001})
    replies = await asyncio.gather(
        *(
            node.infer(artifact, {"stream": i % 2 == 0, "seed": i, "max_tokens": 20}, request_id=f"r{i}")
            for i in range(64)
        )
    )
    assert [reply.token_ids for reply in replies] == [expected(artifact, 20, seed=i) for i in range(64)]
    await node.until(is_unused)


async def test_stop_string_ends_answer_before_it(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    text = text_of(artifact, expected(artifact, 200))
    stop = text[40:44]
    reply = await node.infer(artifact, {"stop": [stop], "max_tokens": 200, "stream": True})
    assert reply.text == text[: text.index(stop)]
    assert reply.finish == "stop"
    assert reply.token_ids == expected(artifact, reply.seqs[-1])
    assert reply.seqs[-1] < 200
    await node.until(is_unused)


async def test_prompt_beyond_context_is_400_before_any_token(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact)
    long = [{"role": "user", "content": "word " * CONTEXT_TOKENS}]
    reply = await node.infer(artifact, {"messages": long, "stream": True})
    assert (reply.status, reply.code, reply.body["error"]["param"]) == (
        400,
        "context_length_exceeded",
        "messages",
    )
    asked = await node.infer(artifact, {"max_tokens": CONTEXT_TOKENS})
    assert (asked.status, asked.body["error"]["param"]) == (400, "max_tokens")


async def test_unlimited_chat_runs_to_end_of_context(tmp_path: Path) -> None:
    artifact = write_simulated_artifact(tmp_path / "artifacts", context_tokens=100)
    async with running_agent(tmp_path) as node:
        await node.loaded(artifact)
        reply = await node.infer(artifact, {"max_tokens": None})
        assert reply.finish == "length"
        assert reply.body["usage"]["total_tokens"] == 100


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 9}, "temperature"),
        ({"unknown": 1}, "unknown"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"stop": [""]}, "stop"),
    ],
)
async def test_bad_field_is_400_naming_it(
    node: AgentClient, artifact: Artifact, body: dict[str, Any], param: str
) -> None:
    await node.loaded(artifact)
    reply = await node.infer(artifact, body)
    assert (reply.status, reply.body["error"]["param"]) == (400, param)


async def test_infer_without_replica_is_409_to_place_again(node: AgentClient, artifact: Artifact) -> None:
    reply = await node.infer(artifact)
    assert (reply.status, reply.code) == (409, "replica_gone")


async def test_client_leaving_in_decode_frees_seat(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, options=SLOW)
    begun = asyncio.Event()
    call = asyncio.create_task(node.infer(artifact, ENDLESS, on_line=lambda reply: begun.set()))
    await begun.wait()
    call.cancel()
    await node.until(is_unused)
    assert (await node.infer(artifact)).token_ids == expected(artifact, 8)


@pytest.mark.parametrize("stream", [True, False])
async def test_client_leaving_in_prefill_frees_seat(
    node: AgentClient, artifact: Artifact, stream: bool
) -> None:
    await node.loaded(artifact, options=STUCK)
    call = asyncio.create_task(node.infer(artifact, {"stream": stream}))
    await node.until(lambda status: status.replicas[0].num_running == 1)
    call.cancel()
    await node.until(is_unused)


async def test_client_leaving_the_queue_frees_place(tmp_path: Path, artifact: Artifact) -> None:
    async with running_agent(tmp_path, engine={"max_num_seqs": 1}) as node:
        await node.loaded(artifact, options=STUCK)
        calls = [asyncio.create_task(node.infer(artifact)) for _ in range(4)]
        await node.until(lambda status: status.replicas[0].num_queued == 2)
        for call in calls:
            call.cancel()
        await node.until(is_unused)


async def test_full_queue_is_429_with_retry_after(tmp_path: Path, artifact: Artifact) -> None:
    async with running_agent(tmp_path, engine={"max_num_seqs": 1}, agent={"max_queue_length": 1}) as node:
        await node.loaded(artifact, options=STUCK)
        calls = [asyncio.create_task(node.infer(artifact)) for _ in range(3)]
        await node.until(lambda status: status.replicas[0].num_queued == 1)
        reply = await node.infer(artifact)
        assert (reply.status, reply.code) == (429, "queue_full")
        assert int(reply.headers["Retry-After"]) >= 1
        for call in calls:
            call.cancel()
        await node.until(is_unused)


async def test_deadline_in_the_queue_is_504(tmp_path: Path, artifact: Artifact) -> None:
    async with running_agent(tmp_path, engine={"max_num_seqs": 1}) as node:
        await node.loaded(artifact, options=STUCK)
        calls = [asyncio.create_task(node.infer(artifact)) for _ in range(2)]
        await node.until(lambda status: status.replicas[0].num_running == 2)
        reply = await node.infer(artifact, deadline_ms=50)
        assert (reply.status, reply.code) == (504, "hold_deadline_exceeded")
        for call in calls:
            call.cancel()
        await node.until(is_unused)


async def test_deadline_in_decode_ends_stream_with_error_event(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, options=SLOW)
    reply = await node.infer(artifact, ENDLESS, deadline_ms=300)
    assert reply.status == 200
    assert reply.events[-1]["error"]["code"] == "hold_deadline_exceeded"
    assert reply.is_done
    num_ids = len(reply.token_ids)
    assert reply.token_ids == expected(artifact, num_ids)
    await node.until(is_unused)


async def test_urgent_request_overtakes_the_queue(tmp_path: Path, artifact: Artifact) -> None:
    async with running_agent(tmp_path, engine={"max_num_seqs": 1}) as node:
        await node.loaded(artifact, options={"token_s": 0.02})
        finished: list[int] = []

        async def ask(priority: int) -> None:
            await node.infer(artifact, priority=priority)
            finished.append(priority)

        calls = [asyncio.create_task(ask(5)) for _ in range(4)]
        await node.until(lambda status: status.replicas[0].num_queued == 2)
        calls.append(asyncio.create_task(ask(1)))
        await asyncio.gather(*calls)
        assert finished == [5, 5, 1, 5, 5]


async def test_unload_lets_running_requests_finish(node: AgentClient, artifact: Artifact) -> None:
    await node.loaded(artifact, options={"token_s": 0.01})
    running = asyncio.create_task(node.infer(artifact, {"max_tokens": 30, "stream": True}))
    await node.until(lambda status: status.replicas[0].num_running == 1)
    unload = asyncio.create_task(node.unload(artifact))
    await node.until(lambda status: status.replicas[0].state == "draining")
    assert (await node.infer(artifact)).code == "replica_gone"
    assert (await running).token_ids == expected(artifact, 30)
    assert (await unload).body == {"unloaded": True}
    assert not (await node.status()).replicas
