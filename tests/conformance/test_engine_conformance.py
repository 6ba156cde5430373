# SPDX-License-Identifier: Apache-2.0
"""What every engine must do, asked of each through a slot, as the agent asks. `vllm` runs in `make test-engines`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import cast

import msgspec
import psutil
import pytest
import pytest_asyncio

from serverlessllm.engine.vllm_server.environment import environment_directory, is_built
from serverlessllm.errors import ContextLengthError, WorkerLostError
from serverlessllm.types import EngineKind
from serverlessllm.wire.worker import Generate, SamplingParams
from support.engine_subject import CONTEXT_TOKENS, VOCAB_SIZE, Subject, bound_subject
from support.tiny_llama import request

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT = [5, 40, 41, 7]
LONG_PROMPT = [3 + number % 200 for number in range(100)]
DRAWN = SamplingParams(temperature=1.0, seed=11)
ENGINES = [
    "simulated",
    "torch",
    "torch x2",
    pytest.param(
        "vllm",
        marks=[
            pytest.mark.engines,
            pytest.mark.timeout(900),
            pytest.mark.skipif(not is_built(""), reason=f"{environment_directory('')}: run `make engines`"),
        ],
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Subject]:
    name, _, ranks = str(request.param).partition(" x")
    kind = cast(EngineKind, name)
    async with bound_subject(kind, tmp_path_factory.mktemp(kind) / "run", num_ranks=int(ranks or 1)) as bound:
        yield bound


def drawn(prompt_ids: list[int], max_tokens: int) -> Generate:
    return request("drawn", prompt_ids, max_tokens, DRAWN)


async def test_answer_is_the_models_and_each_id_is_delivered_once(subject: Subject) -> None:
    events = await subject.events(request("a", PROMPT, 12))
    assert [event.token_id for event in events] == subject.expected(PROMPT, 12)
    assert [event.finish for event in events] == [None] * 11 + ["length"]


async def test_stop_id_is_delivered_and_ends_the_answer(subject: Subject) -> None:
    expected = subject.expected(PROMPT, 12)
    stop = expected[5]
    events = await subject.events(request("stop", PROMPT, 12, stop_token_ids=(stop,)))
    assert [event.token_id for event in events] == expected[: expected.index(stop) + 1]
    assert events[-1].finish == "stop"


async def test_resumed_answer_goes_on_where_it_was_cut(subject: Subject) -> None:
    expected = subject.expected(PROMPT, 10)
    ids = await subject.ids(request("resumed", PROMPT, 10, generated_ids=tuple(expected[:4])))
    assert ids == expected[4:]


async def test_answer_left_early_is_cancelled_and_the_next_is_whole(subject: Subject) -> None:
    async with aclosing(subject.slot.generate(request("left", PROMPT, 400))) as events:
        await anext(events)
    assert subject.slot.num_running == 0
    assert await subject.ids(request("next", PROMPT, 5)) == subject.expected(PROMPT, 5)


async def test_three_choices_come_whole_and_differ(subject: Subject) -> None:
    events = await subject.events(drawn(PROMPT, 16), num_choices=3)
    choices = [tuple(event.token_id for event in events if event.choice == choice) for choice in range(3)]
    assert [len(choice) for choice in choices] == [16, 16, 16]
    assert len(set(choices)) == 3


async def test_one_seed_draws_the_same_answer_twice(subject: Subject) -> None:
    if subject.kind == "vllm":
        pytest.skip("vLLM draws afresh: a resumed or repeated request is not promised the same ids")
    assert await subject.ids(drawn(PROMPT, 16)) == await subject.ids(drawn(PROMPT, 16))


async def test_logprobs_come_with_each_id_and_fall(subject: Subject) -> None:
    events = await subject.events(request("logprobs", PROMPT, 4, logprobs=2))
    for event in events:
        assert event.logprobs is not None
        assert event.logprobs.logprob <= 0
        assert event.logprobs.top_ids[0] == event.token_id
        assert event.logprobs.top_logprobs == sorted(event.logprobs.top_logprobs, reverse=True)
        assert len(event.logprobs.top_ids) == len(event.logprobs.top_logprobs) <= 2


async def test_logprobs_are_absent_unless_asked_for(subject: Subject) -> None:
    assert {event.logprobs for event in await subject.events(request("none", PROMPT, 2))} == {None}


async def test_request_beyond_the_context_is_refused(subject: Subject) -> None:
    with pytest.raises(ContextLengthError, match=str(CONTEXT_TOKENS)):
        await subject.ids(request("long", LONG_PROMPT, CONTEXT_TOKENS))


async def test_more_requests_than_seats_all_get_their_own_answers(subject: Subject) -> None:
    prompts = [[number + 3, 40, 41] for number in range(12)]
    answers = await asyncio.gather(*(subject.ids(request(f"c{p[0]}", p, 10)) for p in prompts))
    assert answers == [subject.expected(prompt, 10) for prompt in prompts]


async def test_repeated_prompt_reports_what_was_cached(subject: Subject) -> None:
    if subject.kind == "simulated":
        pytest.skip("it computes nothing, so it caches nothing")
    asked = msgspec.structs.replace(request("p", LONG_PROMPT, 3), cache_salt="tenant-a")
    first, second = await subject.events(asked), await subject.events(asked)
    assert max(event.cached_tokens for event in first) == 0
    assert 0 < max(event.cached_tokens for event in second) < len(LONG_PROMPT)


async def test_prompt_of_another_salt_is_not_found(subject: Subject) -> None:
    events = [
        event
        for salt in ("tenant-b", "tenant-c")
        for event in await subject.events(
            msgspec.structs.replace(request("p", LONG_PROMPT, 3), cache_salt=salt)
        )
    ]
    assert max(event.cached_tokens for event in events) == 0


async def test_drawn_ids_are_of_the_vocabulary(subject: Subject) -> None:
    sampling = SamplingParams(temperature=1.3, top_p=0.9, top_k=50, min_p=0.01, repetition_penalty=1.1)
    ids = await subject.ids(request("drawn", PROMPT, 40, sampling))
    assert len(ids) == 40
    assert all(0 <= token_id < VOCAB_SIZE for token_id in ids)


async def test_first_event_alone_tells_the_times(subject: Subject) -> None:
    events = await subject.events(request("times", PROMPT, 4))
    assert events[0].prefill_ms >= 0
    assert {(event.wait_ms, event.prefill_ms) for event in events[1:]} == {(0.0, 0.0)}


async def test_vllm_finds_no_checkpoint_file_to_open(subject: Subject) -> None:
    """The weights lie in a memfd; all that the server's processes have of the model on disk is its config."""
    if subject.kind != "vllm":
        pytest.skip("asked of the engine that could read a checkpoint by itself")
    processes = psutil.Process(subject.slot.pid).children(recursive=True)
    directory = Path(f"/proc/{subject.slot.pid}/cwd/model")
    assert [path.name for path in directory.iterdir()] == ["config.json"]
    mapped = {entry.path for process in processes for entry in process.memory_maps()}
    opened = {entry.path for process in processes for entry in process.open_files()}
    assert not [path for path in mapped | opened if path.endswith((".safetensors", ".bin", ".pt", ".gguf"))]


async def test_killed_worker_fails_its_requests_and_leaves_no_process(subject: Subject) -> None:
    """The last test: it takes the worker."""
    below = psutil.Process(subject.slot.pid).children(recursive=True)
    with pytest.raises(WorkerLostError):
        async with aclosing(subject.slot.generate(request("lost", PROMPT, 400))) as events:
            async for _ in events:
                os.kill(subject.slot.pid, 9)
    async with asyncio.timeout(30):
        while any(_is_alive(process) for process in below):  # noqa: ASYNC110 - the kernel tells nobody but a parent
            await asyncio.sleep(0.02)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
