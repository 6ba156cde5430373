# SPDX-License-Identifier: Apache-2.0
"""Blocks as requests see them: hits, salts, choices, preemption, pieces of prompts. The ids are the same without."""

from __future__ import annotations

import pytest

from serverlessllm.engine.base import EngineLimits
from serverlessllm.engine.llama.block_chain import BLOCK_TOKENS, BlockChain
from serverlessllm.engine.llama.engine import LlamaEngine, create
from serverlessllm.engine.llama.scheduler import BUSY_STEP_TOKENS
from serverlessllm.errors import ContextLengthError, EngineError
from serverlessllm.wire.worker import Generate, SamplingParams
from support.tiny_llama import TinyModel, attached_engine, build_tiny, generate_ids, request, run_all

SAMPLED = SamplingParams(temperature=1.0, seed=5, frequency_penalty=0.2)
PROMPT = [(7 * index) % 200 for index in range(3 * BLOCK_TOKENS + 4)]


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return build_tiny("llama")


def cached_tokens(engine: LlamaEngine, item: Generate) -> int:
    """What the request's first event says."""
    engine.add(item)
    return run_all(engine)[item.request_id][0].cached_tokens


def fresh_ids(tiny: TinyModel, item: Generate) -> list[int]:
    """The ids an engine gives that has never seen anything."""
    return generate_ids(attached_engine(tiny.weights, max_num_seqs=1), item)[item.request_id]


def test_repeated_prompt_is_cached_in_whole_blocks_and_answers_alike(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    item = request("r", PROMPT, 8, SAMPLED)
    first = generate_ids(engine, item)["r"]
    assert cached_tokens(engine, item) == 3 * BLOCK_TOKENS
    assert generate_ids(engine, item)["r"] == first == fresh_ids(tiny, item)


def test_prompt_of_whole_blocks_leaves_its_last_block_to_be_computed(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    item = request("r", PROMPT[: 2 * BLOCK_TOKENS], 3)
    first = generate_ids(engine, item)["r"]
    assert cached_tokens(engine, item) == BLOCK_TOKENS
    assert generate_ids(engine, item)["r"] == first


@pytest.mark.parametrize(("salt", "expected"), [("tenant-a", 3 * BLOCK_TOKENS), ("tenant-b", 0), ("", 0)])
def test_only_the_same_salt_shares(tiny: TinyModel, salt: str, expected: int) -> None:
    engine = attached_engine(tiny.weights)
    generate_ids(engine, request("first", PROMPT, 2, cache_salt="tenant-a"))
    assert cached_tokens(engine, request("second", PROMPT, 2, cache_salt=salt)) == expected


def test_second_turn_hits_the_first_ones_prompt_and_answer(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    answer = generate_ids(engine, request("one", PROMPT, 2 * BLOCK_TOKENS))["one"]
    turn = [*PROMPT, *answer, 5, 6, 7]
    hits = cached_tokens(engine, request("two", turn, 2))
    assert hits == (len(turn) - 1 - 3) // BLOCK_TOKENS * BLOCK_TOKENS
    assert generate_ids(engine, request("two", turn, 4))["two"] == fresh_ids(tiny, request("two", turn, 4))


def test_choices_share_one_computed_prompt_and_differ_by_their_draws(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    choices = [request("r", PROMPT, 10, SAMPLED, choice=choice) for choice in range(4)]
    for item in choices:
        engine.add(item)
    first = engine.step()
    assert [(event.choice, event.cached_tokens) for event in first] == [
        (0, 0),
        *((choice, len(PROMPT)) for choice in (1, 2, 3)),
    ]
    got: dict[int, list[int]] = {event.choice: [event.token_id] for event in first}
    while engine.has_work:
        for event in engine.step():
            got[event.choice].append(event.token_id)
    assert got == {item.choice: fresh_ids(tiny, item) for item in choices}
    assert len({tuple(ids) for ids in got.values()}) > 1


def test_choices_beyond_the_slots_are_served_later(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights, max_num_seqs=2)
    for choice in range(5):
        engine.add(request("r", PROMPT, 3 + choice, SAMPLED, choice=choice))
    events = run_all(engine)["r"]
    assert sorted(event.choice for event in events if event.finish) == [0, 1, 2, 3, 4]


def test_cancelled_choice_leaves_the_others(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    for choice in range(3):
        engine.add(request("r", PROMPT, 6, SAMPLED, choice=choice))
    engine.step()
    engine.cancel("r", 1)
    assert {event.choice for event in run_all(engine)["r"]} == {0, 2}
    engine.check_integrity()


def test_preempted_sequence_continues_with_the_ids_it_would_have(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights, num_blocks=7)
    items = [request(f"r{n}", PROMPT[n : n + 60], 60, SAMPLED) for n in range(3)]
    got = generate_ids(engine, *items)
    assert engine.num_preempted > 0
    assert got == {item.request_id: fresh_ids(tiny, item) for item in items}
    engine.check_integrity()


def test_long_prompt_does_not_stop_a_running_stream(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    engine.add(request("stream", [1, 2], 30))
    engine.step()
    long = request("long", [(3 * n) % 200 for n in range(BUSY_STEP_TOKENS + 100)], 2)
    engine.add(long)
    assert [event.request_id for event in engine.step()] == ["stream"]
    assert [event.request_id for event in engine.step()] == ["stream", "long"]
    ids = [event.token_id for event in run_all(engine)["long"]]
    assert ids == fresh_ids(tiny, long)[1:]


def test_blocks_bound_the_context(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights, num_blocks=2)
    assert len(generate_ids(engine, request("r", PROMPT[:60], 4))["r"]) == 4
    with pytest.raises(ContextLengthError, match="64"):
        engine.add(request("r", PROMPT[:60], 5))


def test_room_for_no_block_is_refused_at_the_attach(tiny: TinyModel) -> None:
    with pytest.raises(EngineError, match="kv_cache_bytes"):
        create("float32", 2).attach_weights(tiny.weights, EngineLimits(1, 0, kv_cache_bytes=100), {})


def test_told_blocks_are_the_ones_that_a_request_finds(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights, num_blocks=6)
    found: set[bytes] = set()
    for number in range(5):
        prompt = [number, *PROMPT[: 2 * BLOCK_TOKENS]]
        engine.add(request("r", prompt, 3, cache_salt="s"))
        while engine.has_work:
            engine.step()
            stored, removed = engine.block_changes()
            found = found - set(removed) | set(stored)
        chain = BlockChain("s")
        chain.extend(prompt)
        assert found >= set(chain.digests)
    assert len(found) <= 6
    assert cached_tokens(engine, request("r", prompt, 3, cache_salt="s")) == 2 * BLOCK_TOKENS
    assert engine.block_changes() == ([], [])
