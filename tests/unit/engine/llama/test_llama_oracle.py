# SPDX-License-Identifier: Apache-2.0
"""Batched equals unbatched, under random arrivals and cancels, with and without prefix hits, preemption, prompts in
pieces, and choices that share a prompt.

The oracle: equal ids, or the first difference lies where the unbatched run's margin between the two ids is
< 1e-3 in float32. The number of such near ties is printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serverlessllm.engine.llama import scheduler
from serverlessllm.engine.llama.engine import LlamaEngine
from support.llama_oracle import VOCAB, Arrival, Oracle, Played, unshared
from support.tiny_llama import attached_engine, build_tiny


@dataclass
class Bench(Oracle):
    """One model, an engine for batches and one for the unbatched reference."""

    batched: LlamaEngine = field(kw_only=True)


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def bench(request: pytest.FixtureRequest) -> Bench:
    tiny = build_tiny(request.param, seed=3)
    batched = attached_engine(tiny.weights, max_num_seqs=4)
    return Bench(tiny, unshared(tiny), batched=batched)


arrivals_strategy = st.lists(
    st.builds(
        Arrival,
        gap_steps=st.integers(0, 3),
        prompt_ids=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=90),
        max_tokens=st.integers(1, 14),
        temperature=st.sampled_from([0.0, 0.7, 1.5]),
        seed=st.integers(-(2**63), 2**63 - 1),
        cancel_after=st.none() | st.integers(0, 6),
    ),
    min_size=2,
    max_size=7,
)


def play(engine: LlamaEngine, arrivals: list[Arrival]) -> Played:
    """The ids each choice of each arrival got, all of them running through one engine."""
    got: Played = {}
    num_added = gap_steps = 0
    while num_added < len(arrivals) or engine.has_work:
        while num_added < len(arrivals) and gap_steps >= arrivals[num_added].gap_steps:
            for item in arrivals[num_added].as_requests(num_added):
                engine.add(item)
                got[num_added, item.choice] = []
            num_added += 1
            gap_steps = 0
        for event in engine.step():
            got[int(event.request_id[1:]), event.choice].append(event.token_id)
        gap_steps += 1
        for (index, choice), ids in got.items():
            limit = arrivals[index].cancel_after
            if limit is not None and len(ids) >= limit:
                engine.cancel(f"r{index}", choice)
    return got


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals=arrivals_strategy)
def test_batched_ids_equal_unbatched_ids(bench: Bench, arrivals: list[Arrival]) -> None:
    got = play(bench.batched, arrivals)
    bench.compare_all(arrivals, got)


@st.composite
def related_arrivals(draw: st.DrawFn) -> list[Arrival]:
    """Prompts that begin alike, so that they hit one another's blocks, and answers long enough to run out of them."""
    base = draw(st.lists(st.integers(0, VOCAB - 1), min_size=90, max_size=90))
    related = st.builds(
        Arrival,
        gap_steps=st.integers(0, 4),
        prompt_ids=st.builds(
            lambda cut, tail: base[:cut] + tail, st.integers(1, 90), st.lists(st.integers(0, 9), max_size=3)
        ),
        max_tokens=st.integers(1, 60),
        temperature=st.sampled_from([0.0, 1.0]),
        seed=st.integers(0, 99),
        cancel_after=st.none() | st.integers(1, 30),
        choice=st.integers(0, 3),
    )
    return draw(st.lists(related, min_size=3, max_size=9))


@pytest.fixture(scope="module")
def scarce(bench: Bench) -> LlamaEngine:
    """Slots for six, blocks for one of the longest."""
    return attached_engine(bench.tiny.weights, max_num_seqs=6, num_blocks=5)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals=related_arrivals())
def test_ids_with_hits_and_preemption_equal_those_without(
    bench: Bench, scarce: LlamaEngine, arrivals: list[Arrival]
) -> None:
    got = play(scarce, arrivals)
    scarce.check_integrity()
    bench.compare_all(arrivals, got)


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of few rows, so that prompts of some dozens of ids come in pieces, as long ones do."""
    monkeypatch.setattr(scheduler, "STEP_TOKENS", 40)
    monkeypatch.setattr(scheduler, "BUSY_STEP_TOKENS", 13)


@pytest.mark.usefixtures("short_steps")
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals=related_arrivals(), num_choices=st.lists(st.integers(1, 3), min_size=9, max_size=9))
def test_ids_of_prompts_in_pieces_and_of_choices_that_share_them_equal_those_alone(
    bench: Bench, scarce: LlamaEngine, arrivals: list[Arrival], num_choices: list[int]
) -> None:
    several = [replace(each, num_choices=n) for each, n in zip(arrivals, num_choices, strict=False)]
    got = play(scarce, several)
    scarce.check_integrity()
    bench.compare_all(several, got)


def test_near_ties_are_counted(bench: Bench) -> None:
    """Runs last and shows, with `-s`, how often the oracle's tolerance was used."""
    print(f"near ties: {bench.num_near_ties} in {bench.num_compared} requests")  # noqa: T201
    assert bench.num_compared > 0
    assert bench.num_near_ties <= bench.num_compared / 20
