# SPDX-License-Identifier: Apache-2.0
"""Weights that arrive while requests wait: answers are those of a model that was whole from the start.

The oracle is that of `test_llama_oracle.py`: in float32 the first difference, if any, is a near tie.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serverlessllm.engine.base import EngineLimits, Weights
from serverlessllm.engine.llama.engine import LlamaEngine, create
from serverlessllm.errors import CheckpointFormatError
from serverlessllm.wire.worker import Generate, SamplingParams, TokenEvent
from support.arriving import Arriving, in_shards
from support.tiny_llama import TinyModel, attached_engine, build_tiny, generate_ids, request

MARGIN = 1e-3
PROMPT = [5, 17, 3, 99, 5, 42]


class Subject:
    """One model, its weights in shards, and a whole engine to compare with."""

    def __init__(self, tiny: TinyModel) -> None:
        self.tiny = tiny
        self.weights = in_shards(tiny.weights)
        self.whole: LlamaEngine = attached_engine(tiny.weights)

    def check(self, item: Generate, ids: list[int]) -> None:
        expected = generate_ids(self.whole, item)[item.request_id]
        assert len(ids) == len(expected)
        for index, (got, wanted) in enumerate(zip(ids, expected, strict=True)):
            if got != wanted:
                logits = self.tiny.reference_logits([*item.prompt_ids, *expected[:index]])[-1]
                assert abs(float(logits[got] - logits[wanted])) < MARGIN
                return


@pytest.fixture(
    scope="module", params=[("llama", False), ("llama", True), ("qwen2", True), ("qwen3", False)], ids=str
)
def subject(request: pytest.FixtureRequest) -> Subject:
    family, is_tied = request.param
    return Subject(build_tiny(family, {"tie_word_embeddings": is_tied}, seed=5))


def ids_of(events: list[TokenEvent]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for event in events:
        found.setdefault(event.request_id, []).append(event.token_id)
    return found


def play(
    arriving: Arriving, requests: list[Generate], cancelled: set[str], rng: random.Random
) -> list[TokenEvent]:
    """Arrivals, grants, steps, new requests and cancels in random order, until all is there."""
    events: list[TokenEvent] = []
    waiting, running = list(requests), []
    while waiting or not arriving.is_whole:
        match rng.choice(("add", "arrive", "grant", "step", "step", "cancel")):
            case "add" if waiting:
                running.append(waiting.pop(0))
                arriving.engine.add(running[-1])
            case "arrive" if not arriving.is_whole:
                arriving.arrive()
            case "grant":
                arriving.grant(is_right=rng.random() < 0.8)
            case "step" if arriving.engine.has_work:
                events += arriving.engine.step()
            case "cancel" if running and running[0].request_id in cancelled:
                arriving.engine.cancel(running.pop(0).request_id)
    for item in running:
        if item.request_id in cancelled:
            arriving.engine.cancel(item.request_id)
    return events + arriving.finish()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_ids_equal_those_of_whole_weights_in_any_order(
    subject: Subject, data: st.DataObject, seed: int
) -> None:
    rng = random.Random(seed)
    order = data.draw(st.permutations(range(len(subject.weights.shards))))
    lengths = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=6))
    requests = [
        request(f"r{i}", [rng.randrange(211) for _ in range(length)], 5, SamplingParams(temperature=0.0))
        for i, length in enumerate(lengths)
    ]
    cancelled = {item.request_id for item in requests if rng.random() < 0.25}
    arriving = Arriving(subject.weights, order=order, max_num_seqs=rng.choice((1, 2, 4)))
    found = ids_of(play(arriving, requests, cancelled, rng))
    for item in requests:
        if item.request_id not in cancelled:
            subject.check(item, found[item.request_id])
    assert not arriving.engine.has_work
    arriving.engine.check_integrity()


def test_block_is_computed_once_its_shard_is_there(subject: Subject) -> None:
    arriving = Arriving(subject.weights)
    arriving.engine.add(request("r", PROMPT, 4))
    assert arriving.is_waiting()
    assert arriving.grant() > 0
    assert arriving.run() == []
    for _ in range(3):
        arriving.arrive()
        assert not arriving.is_waiting()
        assert arriving.run() == []
        assert arriving.is_waiting()
    events = arriving.finish()
    subject.check(request("r", PROMPT, 4), [event.token_id for event in events])


def test_rows_are_wanted_once_and_only_those_of_the_prompt(subject: Subject) -> None:
    arriving = Arriving(subject.weights)
    row_bytes = 48 * 4
    arriving.engine.add(request("a", PROMPT, 1))
    assert arriving.grant() == len(set(PROMPT)) * row_bytes
    arriving.engine.add(request("b", [*PROMPT, 7], 1))
    assert arriving.grant() == row_bytes
    assert arriving.grant() == 0


def test_embeddings_that_come_by_themselves_are_not_wanted(subject: Subject) -> None:
    arriving = Arriving(subject.weights, order=[3, 0, 1, 2, *range(4, len(subject.weights.shards))])
    arriving.arrive()
    arriving.engine.add(request("r", PROMPT, 2))
    assert arriving.engine.take_wanted() == []
    subject.check(request("r", PROMPT, 2), [event.token_id for event in arriving.finish()])


def test_pass_on_wrong_rows_is_computed_again(subject: Subject) -> None:
    arriving = Arriving(subject.weights)
    arriving.engine.add(request("r", PROMPT, 5))
    arriving.grant(is_right=False)
    subject.check(request("r", PROMPT, 5), [event.token_id for event in arriving.finish()])


def test_request_cancelled_between_blocks_gives_its_slot_to_the_next(subject: Subject) -> None:
    arriving = Arriving(subject.weights, max_num_seqs=1)
    arriving.engine.add(request("gone", PROMPT, 5))
    arriving.engine.add(request("next", [9, 9, 4], 5))
    arriving.grant()
    arriving.arrive()
    arriving.run()
    arriving.engine.cancel("gone")
    arriving.grant()
    found = ids_of(arriving.finish())
    assert found.keys() == {"next"}
    subject.check(request("next", [9, 9, 4], 5), found["next"])


def test_choices_share_the_streamed_pass(subject: Subject) -> None:
    arriving = Arriving(subject.weights)
    sampling = SamplingParams(temperature=0.8, seed=4)
    items = [request("r", PROMPT, 3, sampling, choice=choice) for choice in range(3)]
    for item in items:
        arriving.engine.add(item)
    arriving.grant()
    events = arriving.finish()
    for item in items:
        ids = [event.token_id for event in events if event.choice == item.choice]
        assert ids == generate_ids(subject.whole, item)["r"]


def test_quiet_engine_computes_nothing_of_what_arrives(subject: Subject) -> None:
    arriving = Arriving(subject.weights)
    arriving.engine.quiesce()
    arriving.engine.add(request("r", PROMPT, 1))
    arriving.grant()
    assert arriving.finish() == []
    arriving.engine.resume()
    subject.check(request("r", PROMPT, 1), [event.token_id for event in arriving.run()])


def test_time_without_weights_is_told_apart_from_prefill(subject: Subject) -> None:
    arriving = Arriving(subject.weights)
    arriving.engine.add(request("r", PROMPT, 1))
    (event,) = arriving.finish()
    assert event.stall_ms > 0
    assert event.prefill_ms > 0


def test_checkpoint_that_lacks_a_tensor_is_refused_before_it_arrives(subject: Subject) -> None:
    layout = subject.weights.layout
    kept = [tensor for tensor in layout.tensors if tensor.name != "model.layers.2.mlp.down_proj.weight"]
    lacking = type(layout)(layout.architecture, kept, layout.groups, layout.aliases)
    weights = Weights(subject.weights.region, lacking, subject.weights.shards, 0)
    with pytest.raises(CheckpointFormatError, match="down_proj"):
        create("float32", 1).attach_weights(weights, EngineLimits(1, 0), {})
