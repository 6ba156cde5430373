# SPDX-License-Identifier: Apache-2.0
"""Requests that move from one engine to another: prepared there while they run here, continued with the same ids."""

from __future__ import annotations

import random

import msgspec
import pytest

from serverlessllm.engine.llama.block_chain import BLOCK_TOKENS
from serverlessllm.engine.llama.engine import LlamaEngine
from serverlessllm.engine.llama.scheduler import STANDBY_STEP_TOKENS
from serverlessllm.errors import InvalidRequestError
from serverlessllm.wire.standby import Extend, PutBlocks, Standing, TakeBlocks
from serverlessllm.wire.worker import Generate, SamplingParams
from support.tiny_llama import TinyModel, attached_engine, build_tiny, generate_ids, request, run_all

SAMPLED = SamplingParams(temperature=1.0, seed=5, frequency_penalty=0.2)
PROMPT = [(7 * index) % 200 for index in range(3 * BLOCK_TOKENS + 4)]


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return build_tiny("llama")


def standby(item: Generate, ids: list[int]) -> Generate:
    """The request as its destination gets it."""
    return msgspec.structs.replace(item, generated_ids=ids, is_standby=True)


def caught_up(engine: LlamaEngine) -> list[Standing]:
    """Compute until nothing is left to prepare; nothing is sampled."""
    while engine.has_work:
        assert engine.step() == []
    return engine.take_standing()


def started(engine: LlamaEngine, item: Generate, num: int) -> list[int]:
    """The first `num` ids of a request that goes on running."""
    engine.add(item)
    return [event.token_id for _ in range(num) for event in engine.step()]


def ids_of(engine: LlamaEngine, name: str = "r") -> list[int]:
    return [event.token_id for event in run_all(engine)[name]]


@pytest.mark.parametrize("sampling", [SAMPLED, SamplingParams(temperature=0.0)], ids=["sampled", "greedy"])
def test_moved_request_goes_on_with_the_ids_it_would_have(tiny: TinyModel, sampling: SamplingParams) -> None:
    item = request("r", PROMPT, 60, sampling)
    expected = generate_ids(attached_engine(tiny.weights), item)["r"]
    source, destination = attached_engine(tiny.weights), attached_engine(tiny.weights)
    ids = started(source, item, 5)
    destination.add(standby(item, ids))
    assert caught_up(destination) == [Standing("r", 0, len(PROMPT) + 5, 0)]
    more = [event.token_id for _ in range(40) for event in source.step()]
    destination.extend(Extend("r", 0, more))
    assert caught_up(destination) == [Standing("r", 0, len(PROMPT) + 45, 0)]
    last = [event.token_id for _ in range(2) for event in source.step()]
    destination.extend(Extend("r", 0, last, is_last=True))
    assert [*ids, *more, *last, *ids_of(destination)] == expected
    destination.check_integrity()


def test_last_ids_of_a_caught_up_request_are_followed_by_the_next_one_in_one_step(tiny: TinyModel) -> None:
    item = request("r", PROMPT, 30, SAMPLED)
    source, destination = attached_engine(tiny.weights), attached_engine(tiny.weights)
    ids = started(source, item, 3)
    destination.add(standby(item, ids))
    caught_up(destination)
    destination.extend(Extend("r", 0, [event.token_id for event in source.step()], is_last=True))
    assert [event.token_id for event in destination.step()] == [event.token_id for event in source.step()]


def test_preparing_adds_few_rows_to_the_steps_of_running_streams(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    engine.add(request("stream", [1, 2], 50))
    engine.step()
    engine.add(standby(request("r", PROMPT, 30), [3, 4]))
    num_steps = -(-(len(PROMPT) + 1) // STANDBY_STEP_TOKENS)
    for _ in range(num_steps):
        assert engine.take_standing() == []
        assert [event.request_id for event in engine.step()] == ["stream"]
    assert [standing.request_id for standing in engine.take_standing()] == ["r"]


def test_waiting_standby_is_no_work_and_its_cancel_frees_all(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    engine.add(standby(request("r", PROMPT, 30), [3]))
    caught_up(engine)
    assert not engine.has_work
    engine.cancel("r")
    engine.check_integrity()
    with pytest.raises(InvalidRequestError):
        engine.extend(Extend("r", 0, [5], is_last=True))


def test_newcomer_takes_the_place_of_a_standby_which_still_goes_on_alike(tiny: TinyModel) -> None:
    item = request("r", PROMPT, 40, SAMPLED)
    expected = generate_ids(attached_engine(tiny.weights), item)["r"]
    engine = attached_engine(tiny.weights, max_num_seqs=1)
    engine.add(standby(item, expected[:5]))
    caught_up(engine)
    assert len(generate_ids(engine, request("new", [1, 2, 3], 6))["new"]) == 6
    engine.extend(Extend("r", 0, expected[5:7], is_last=True))
    assert ids_of(engine) == expected[7:]


def test_standbys_that_fill_the_pool_give_way(tiny: TinyModel) -> None:
    item = request("r", PROMPT, 90, SAMPLED)
    expected = generate_ids(attached_engine(tiny.weights), item)["r"]
    engine = attached_engine(tiny.weights, num_blocks=7)
    engine.add(standby(item, expected[:2]))
    caught_up(engine)
    busy = request("busy", PROMPT[3:], 90, SAMPLED)
    assert generate_ids(engine, busy) == generate_ids(attached_engine(tiny.weights), busy)
    for token_id in expected[2:60]:
        engine.extend(Extend("r", 0, [token_id]))
    engine.extend(Extend("r", 0, [], is_last=True))
    assert ids_of(engine) == expected[60:]
    engine.check_integrity()


def test_copied_blocks_are_hits_where_they_arrive(tiny: TinyModel) -> None:
    item = request("r", PROMPT, 60, SAMPLED)
    expected = generate_ids(attached_engine(tiny.weights), item)["r"]
    source, destination = attached_engine(tiny.weights), attached_engine(tiny.weights)
    ids = started(source, item, 40)
    out = source.take_blocks(TakeBlocks("r", 0, 0))
    assert len(out.blocks) == (len(PROMPT) + 39) // BLOCK_TOKENS and out.num_left == 0
    assert destination.put_blocks(PutBlocks("r", out.digests, out.blocks)) == len(out.blocks)
    destination.add(standby(item, ids))
    assert caught_up(destination) == [
        Standing("r", 0, len(PROMPT) + 40, cached_tokens=len(out.blocks) * BLOCK_TOKENS)
    ]
    destination.extend(Extend("r", 0, [], is_last=True))
    assert ids_of(destination) == expected[40:]
    destination.check_integrity()


def test_blocks_of_another_size_are_refused_and_full_pools_take_what_they_can(tiny: TinyModel) -> None:
    source, small = attached_engine(tiny.weights), attached_engine(tiny.weights, num_blocks=2)
    started(source, request("r", PROMPT, 60), 2)
    out = source.take_blocks(TakeBlocks("r", 0, 1))
    assert source.take_blocks(TakeBlocks("unknown", 0, 0)).blocks == []
    with pytest.raises(InvalidRequestError, match="bytes where a block has"):
        small.put_blocks(PutBlocks("r", out.digests, [block[1:] for block in out.blocks]))
    small.add(request("held", [1] * 40, 20))
    small.step()
    assert small.put_blocks(PutBlocks("r", out.digests, out.blocks)) == 0
    small.check_integrity()


@pytest.mark.parametrize("seed", range(4))
def test_hops_between_three_engines_keep_the_ids(tiny: TinyModel, seed: int) -> None:
    """Back and forth, with others running beside, blocks copied or not, prepared in several rounds or none."""
    dice = random.Random(seed)
    engines = [attached_engine(tiny.weights, num_blocks=dice.choice([0, 9])) for _ in range(3)]
    item = request("r", PROMPT[: dice.randint(1, 90)], 80, SAMPLED)
    expected = generate_ids(attached_engine(tiny.weights), item)["r"]
    for number, engine in enumerate(engines):
        engine.add(request(f"beside{number}", PROMPT[number:40], 70, SAMPLED))
    at, ids = engines[0], generate_ids(engines[1], request("r", item.prompt_ids, 1, SAMPLED))["r"]
    at.add(msgspec.structs.replace(item, generated_ids=ids))
    while len(ids) < 70:
        ids += [e.token_id for _ in range(dice.randint(1, 20)) for e in at.step() if e.request_id == "r"]
        to = dice.choice([engine for engine in engines if engine is not at])
        if dice.random() < 0.5:
            out = at.take_blocks(TakeBlocks("r", 0, 0))
            to.put_blocks(PutBlocks("r", out.digests, out.blocks))
        num_sent = max(1, len(ids) - dice.randint(0, 9))
        to.add(standby(item, ids[:num_sent]))
        for _ in range(dice.randint(0, 6)):
            to.step()
        at.cancel("r")
        to.extend(Extend("r", 0, ids[num_sent:], is_last=True))
        at = to
    while at.has_work:
        ids += [event.token_id for event in at.step() if event.request_id == "r"]
    assert ids == expected
    for engine in engines:
        engine.check_integrity()
