# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import mmap

import pytest
import torch

from serverlessllm.engine.base import Engine, EngineLimits, Weights
from serverlessllm.engine.llama.engine import create
from serverlessllm.errors import (
    CheckpointFormatError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    UnsupportedCheckpointError,
)
from serverlessllm.wire.worker import ModelLayout, SamplingParams
from support.llama_region import pack_region
from support.tiny_llama import (
    TinyModel,
    attached_engine,
    build_tiny,
    generate_ids,
    reference_weights,
    request,
    run_all,
)

SAMPLED = SamplingParams(temperature=1.3, top_p=0.95, repetition_penalty=1.2, frequency_penalty=0.3, seed=11)


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return build_tiny("llama")


def test_engine_satisfies_the_protocol() -> None:
    engine: Engine = create("float32", 2)
    assert (engine.name, engine.dtype, engine.has_work) == ("torch", "float32", False)


def test_greedy_ids_are_those_of_the_reference(tiny: TinyModel) -> None:
    ids = [5, 6, 7]
    generated = generate_ids(attached_engine(tiny.weights), request("r", ids, 12))["r"]
    for token_id in generated:
        logits = tiny.reference_logits(ids)[-1]
        assert logits.max() - logits[token_id] < 1e-3
        ids = [*ids, token_id]


def test_last_event_says_length_and_the_first_carries_timings(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    engine.add(request("r", [1, 2], 3))
    events = run_all(engine)["r"]
    assert [event.finish for event in events] == [None, None, "length"]
    assert events[0].prefill_ms > 0
    assert (events[1].wait_ms, events[1].prefill_ms) == (0, 0)


def test_stop_id_is_sent_and_finishes(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    free = generate_ids(engine, request("free", [3], 8))["free"]
    stop = free[4]
    engine.add(request("stopped", [3], 8, stop_token_ids=(stop,)))
    events = run_all(engine)["stopped"]
    assert [event.token_id for event in events] == free[: free.index(stop) + 1]
    assert events[-1].finish == "stop"


@pytest.mark.parametrize("sampling", [SamplingParams(temperature=0.0), SAMPLED])
def test_continued_request_yields_the_ids_it_would_have(tiny: TinyModel, sampling: SamplingParams) -> None:
    engine = attached_engine(tiny.weights)
    whole = generate_ids(engine, request("r", [9, 8], 20, sampling))["r"]
    for cut in (1, 7, 19):
        rest = generate_ids(engine, request("r", [9, 8], 20, sampling, generated_ids=tuple(whole[:cut])))["r"]
        assert whole[:cut] + rest == whole


def test_seed_and_choice_decide_the_draw(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)

    def draw(seed: int, choice: int) -> tuple[int, ...]:
        sampling = SamplingParams(temperature=1.0, seed=seed)
        return tuple(generate_ids(engine, request("r", [4], 8, sampling, choice=choice))["r"])

    assert draw(1, 0) == draw(1, 0)
    assert len({draw(1, 0), draw(2, 0), draw(1, 1)}) == 3


def test_more_requests_than_slots_all_finish(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights, max_num_seqs=2)
    requests = [request(f"r{i}", [i + 1], 1 + i % 4) for i in range(7)]
    generated = generate_ids(engine, *requests)
    assert {name: len(ids) for name, ids in generated.items()} == {f"r{i}": 1 + i % 4 for i in range(7)}


def test_step_gives_one_id_to_each_running_request(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    engine.add(request("a", [1], 9))
    assert [event.request_id for event in engine.step()] == ["a"]
    engine.add(request("b", [2], 9))
    assert [event.request_id for event in engine.step()] == ["a", "b"]


def test_prompt_budget_admits_a_long_prompt_alone(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    engine.add(request("long", [1] * 400, 5))
    engine.add(request("next", [2] * 200, 5))
    assert {event.request_id for event in engine.step()} == {"long"}
    assert {event.request_id for event in engine.step()} == {"long", "next"}


def test_cancelled_request_is_dropped_in_every_phase(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights, max_num_seqs=1)
    for name in ("running", "queued", "last"):
        engine.add(request(name, [1], 4))
    engine.step()
    for name in ("running", "queued", "unknown"):
        engine.cancel(name)
    assert set(run_all(engine)) == {"last"}


def test_quiesced_engine_queues_and_computes_nothing(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    engine.quiesce()
    engine.add(request("r", [1], 2))
    assert not engine.has_work
    assert engine.step() == []
    engine.resume()
    assert len(run_all(engine)["r"]) == 2


def test_prompt_and_max_tokens_beyond_the_context_are_refused(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights, max_model_len_tokens=16)
    with pytest.raises(ContextLengthError, match="17"):
        engine.add(request("r", [1] * 10, 7))
    assert not engine.has_work
    assert len(generate_ids(engine, request("r", [1] * 10, 6))["r"]) == 6


def test_limit_above_the_models_own_context_is_lowered(tiny: TinyModel) -> None:
    report = create("float32", 2).attach_weights(tiny.weights, EngineLimits(1, 99999), {})
    assert report.max_model_len_tokens == 512


@pytest.mark.parametrize(
    ("field", "prompt", "sampling"),
    [
        ("prompt_ids", [], SamplingParams()),
        ("prompt_ids", [211], SamplingParams()),
        ("prompt_ids", [-1], SamplingParams()),
        ("temperature", [1], SamplingParams(temperature=-0.1)),
        ("temperature", [1], SamplingParams(temperature=float("nan"))),
        ("top_p", [1], SamplingParams(top_p=0.0)),
        ("top_k", [1], SamplingParams(top_k=-1)),
        ("min_p", [1], SamplingParams(min_p=1.5)),
        ("repetition_penalty", [1], SamplingParams(repetition_penalty=0.0)),
        ("presence_penalty", [1], SamplingParams(presence_penalty=float("inf"))),
    ],
)
def test_invalid_request_is_refused_by_field(
    tiny: TinyModel, field: str, prompt: list[int], sampling: SamplingParams
) -> None:
    engine = attached_engine(tiny.weights)
    with pytest.raises(InvalidRequestError) as refused:
        engine.add(request("r", prompt, 4, sampling))
    assert refused.value.param == field
    assert not engine.has_work


def test_request_that_is_running_already_is_refused(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    engine.add(request("r", [1], 4))
    with pytest.raises(InvalidRequestError, match="running already"):
        engine.add(request("r", [1], 4))


def test_exhausted_continuation_is_refused(tiny: TinyModel) -> None:
    with pytest.raises(InvalidRequestError, match="max_tokens"):
        attached_engine(tiny.weights).add(request("r", [1], 2, generated_ids=(3, 4)))


def test_detached_engine_lets_the_region_be_unmapped(tiny: TinyModel) -> None:
    memory = mmap.mmap(-1, len(tiny.weights.region))
    memory[:] = tiny.weights.region
    engine = create("float32", 2)
    region = memoryview(memory)
    engine.attach_weights(Weights(region, tiny.weights.layout), EngineLimits(2, 0), {})
    engine.add(request("r", [1], 9))
    engine.step()
    engine.detach_weights()
    gc.collect()
    region.release()
    memory.close()
    assert memory.closed
    with pytest.raises(EngineError, match="no weights"):
        engine.add(request("r", [1], 1))


def test_engine_attaches_again_after_detaching(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    with pytest.raises(EngineError, match="attached already"):
        engine.attach_weights(tiny.weights, EngineLimits(1, 0), {})
    before = generate_ids(engine, request("r", [7], 5))
    engine.detach_weights()
    engine.attach_weights(tiny.weights, EngineLimits(1, 0), {})
    assert generate_ids(engine, request("r", [7], 5)) == before


def test_bfloat16_checkpoint_is_converted_for_a_float32_engine(tiny: TinyModel) -> None:
    weights = reference_weights(tiny.reference, torch.bfloat16)
    report = create("float32", 2).attach_weights(weights, EngineLimits(1, 0), {})
    assert report.copied_bytes > len(weights.region)


def test_bfloat16_engine_generates_and_copies_nothing(tiny: TinyModel) -> None:
    engine = create("bfloat16", 2)
    report = engine.attach_weights(reference_weights(tiny.reference, torch.bfloat16), EngineLimits(2, 0), {})
    assert report.copied_bytes == 0
    assert len(generate_ids(engine, request("r", [7], 5))["r"]) == 5


def test_checkpoint_that_lacks_a_tensor_is_refused_and_nothing_stays_attached(tiny: TinyModel) -> None:
    tensors = dict(tiny.reference.state_dict())
    del tensors["model.layers.1.mlp.down_proj.weight"]
    engine = create("float32", 2)
    with pytest.raises(CheckpointFormatError, match=r"layers\.1\.mlp\.down_proj"):
        engine.attach_weights(pack_region(tiny.weights.layout.architecture, tensors), EngineLimits(1, 0), {})
    engine.attach_weights(tiny.weights, EngineLimits(1, 0), {})


def test_unknown_architecture_is_refused() -> None:
    weights = Weights(memoryview(b""), ModelLayout({"model_type": "mamba"}, [], [], {}))
    with pytest.raises(UnsupportedCheckpointError, match="mamba"):
        create("float32", 2).attach_weights(weights, EngineLimits(1, 0), {})


def test_primed_engine_answers(tiny: TinyModel) -> None:
    engine = create("float32", 2)
    engine.prime()
    engine.prime()
    engine.attach_weights(tiny.weights, EngineLimits(1, 0), {})
    assert len(generate_ids(engine, request("r", [7], 5))["r"]) == 5


@pytest.mark.parametrize(("dtype", "num_threads"), [("float16", 2), ("float32", 0)])
def test_impossible_engine_is_refused(dtype: str, num_threads: int) -> None:
    with pytest.raises(EngineError):
        create(dtype, num_threads)
