# SPDX-License-Identifier: Apache-2.0
"""Answers that follow a grammar: alone, batched, as choices, continued, preempted, penalised."""

from __future__ import annotations

import json

import msgspec
import pytest

from serverlessllm.engine.llama.engine import LlamaEngine
from serverlessllm.errors import EngineError, InvalidRequestError
from serverlessllm.text.grammar import json_grammar
from serverlessllm.wire.worker import Generate, SamplingParams, Spellings
from support.tiny_llama import TinyModel, attached_engine, build_tiny, generate_ids, request, run_all

STOP_ID = 128
PROMPT = [7, 9] * 12
SPELLINGS = Spellings([*(bytes([byte]) for byte in range(128)), b"<eos>", b'{"', b'":'], [STOP_ID], [STOP_ID])
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rome", "Bern"]},
        "days": {"type": "array", "items": {"type": "boolean"}},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
SCHEMA["properties"]["days"] |= {"minItems": 5, "maxItems": 9}  # type: ignore[index]  # a dict, as written above
GRAMMAR = json_grammar(SCHEMA, "schema")
SAMPLED = SamplingParams(temperature=1.5, top_p=0.9, repetition_penalty=1.3, frequency_penalty=0.5, seed=3)
AMBIGUOUS = 'start: s\ns: "a" | s s | s s s | s s s s | s s s s s\n'
"""Each further "a" can be read in more ways than the one before."""


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return build_tiny("llama")


def grammar_engine(tiny: TinyModel, *, max_num_seqs: int = 8, num_blocks: int = 0) -> LlamaEngine:
    engine = attached_engine(tiny.weights, max_num_seqs=max_num_seqs, num_blocks=num_blocks)
    engine.set_spellings(SPELLINGS)
    return engine


def ask(name: str, *, seed: int = 3, choice: int = 0, generated: tuple[int, ...] = ()) -> Generate:
    sampling = msgspec.structs.replace(SAMPLED, seed=seed)
    plain = request(
        name, PROMPT, 200, sampling, stop_token_ids=(STOP_ID,), generated_ids=generated, choice=choice
    )
    return msgspec.structs.replace(plain, grammar=GRAMMAR)


def text_of(ids: list[int]) -> str:
    return b"".join(SPELLINGS.tokens[token_id] for token_id in ids if token_id != STOP_ID).decode()


def test_answer_satisfies_the_schema_and_ends_by_itself(tiny: TinyModel) -> None:
    for seed in range(12):
        ids = generate_ids(grammar_engine(tiny), ask("r", seed=seed))["r"]
        answer = json.loads(text_of(ids))
        assert answer["city"] in ("Rome", "Bern")
        assert 5 <= len(answer["days"]) <= 9
        assert ids[-1] == STOP_ID


def test_batched_beside_free_requests_gives_the_ids_of_each_alone(tiny: TinyModel) -> None:
    requests = [ask("a", seed=1), ask("b", seed=2), request("free", [4, 5], 40, SAMPLED), ask("c", seed=5)]
    together = generate_ids(grammar_engine(tiny), *requests)
    for each in requests:
        assert generate_ids(grammar_engine(tiny), each)[each.request_id] == together[each.request_id]


def test_continued_answer_is_the_one_it_would_have_been(tiny: TinyModel) -> None:
    engine = grammar_engine(tiny)
    whole = generate_ids(engine, ask("r"))["r"]
    for cut in range(1, len(whole), 5):
        rest = generate_ids(engine, ask("r", generated=tuple(whole[:cut])))["r"]
        assert whole[:cut] + rest == whole


def test_choices_follow_the_grammar_each_on_its_own(tiny: TinyModel) -> None:
    engine = grammar_engine(tiny)
    for choice in range(4):
        engine.add(ask("r", choice=choice))
    ids: dict[int, list[int]] = {}
    for event in run_all(engine)["r"]:
        ids.setdefault(event.choice, []).append(event.token_id)
    answers = [text_of(found) for found in ids.values()]
    assert all(json.loads(answer)["city"] for answer in answers)
    assert len(set(answers)) > 1


def test_preempted_answers_are_those_of_an_unhurried_engine(tiny: TinyModel) -> None:
    requests = [ask(f"r{seed}", seed=seed) for seed in range(6)]
    requests = [msgspec.structs.replace(each, max_tokens=90) for each in requests]
    tight = grammar_engine(tiny, num_blocks=4)
    assert generate_ids(tight, *requests) == generate_ids(grammar_engine(tiny), *requests)
    assert tight.num_preempted > 0


def test_log_probabilities_are_the_models_own(tiny: TinyModel) -> None:
    engine = grammar_engine(tiny)
    engine.add(msgspec.structs.replace(ask("r"), logprobs=2))
    first = run_all(engine)["r"][0]
    expected = tiny.reference_logits(PROMPT)[-1].log_softmax(-1)
    assert first.logprobs is not None
    assert first.logprobs.top_logprobs[0] == pytest.approx(float(expected.max()), abs=1e-3)


def test_grammar_that_takes_too_much_fails_its_request_only(tiny: TinyModel) -> None:
    engine = grammar_engine(tiny)
    bomb = msgspec.structs.replace(ask("bomb"), grammar=AMBIGUOUS, stop_token_ids=[], max_tokens=480)
    engine.add(bomb)
    engine.add(ask("good"))
    events = run_all(engine)
    failures = engine.take_failures()
    assert [failed.request_id for failed in failures] == ["bomb"]
    assert "takes too much" in failures[0].message
    assert json.loads(text_of([event.token_id for event in events["good"]]))
    assert engine.take_failures() == []


def test_grammar_is_refused_without_spellings_or_when_malformed(tiny: TinyModel) -> None:
    with pytest.raises(EngineError, match="spellings"):
        attached_engine(tiny.weights).add(ask("r"))
    engine = grammar_engine(tiny)
    with pytest.raises(InvalidRequestError, match="grammar"):
        engine.add(msgspec.structs.replace(ask("r"), grammar="start: ("))
    with pytest.raises(InvalidRequestError, match="do not follow"):
        engine.add(ask("r", generated=(ord("x"),)))
