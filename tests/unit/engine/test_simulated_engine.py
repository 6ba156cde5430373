# SPDX-License-Identifier: Apache-2.0
"""The simulated engine, driven by a clock that the test moves."""

from __future__ import annotations

import msgspec
import pytest

from serverlessllm.engine.base import EngineLimits, Weights
from serverlessllm.engine.simulated.engine import SimulatedEngine, expected_ids
from serverlessllm.errors import (
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    UnsupportedCheckpointError,
)
from serverlessllm.wire.worker import Generate, ModelLayout, SamplingParams, TokenEvent

PROMPT = [5, 6, 7]


class HandClock:
    """A clock that stands still until `pause` moves it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def attached(
    clock: HandClock,
    *,
    max_num_seqs: int = 8,
    options: dict[str, float] | None = None,
    architecture: dict[str, object] | None = None,
) -> SimulatedEngine:
    engine = SimulatedEngine("float32", clock=clock, pause=clock.pause)
    layout = ModelLayout(architecture=architecture or {}, tensors=[], groups=[], aliases={})
    engine.attach_weights(Weights(memoryview(b""), layout), EngineLimits(max_num_seqs, 0), options or {})
    return engine


def request(request_id: str = "r", *, max_tokens: int = 4, seed: int = 1) -> Generate:
    return Generate(
        request_id=request_id,
        prompt_ids=PROMPT,
        max_tokens=max_tokens,
        sampling=SamplingParams(seed=seed),
        stop_token_ids=[],
    )


def drain(engine: SimulatedEngine) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    while engine.has_work:
        events += engine.step()
    return events


def ids_of(events: list[TokenEvent]) -> list[int]:
    return [event.token_id for event in events]


def test_expected_ids_of_a_fixed_prompt_never_change() -> None:
    assert expected_ids([5, 6, 7], 1, 0, 4) == [24130, 9634, 13637, 5689]


def test_expected_ids_differ_by_prompt_seed_and_choice() -> None:
    answers = [expected_ids(*case, 8) for case in (([1], 0, 0), ([2], 0, 0), ([1], 1, 0), ([1], 0, 1))]
    assert len({tuple(answer) for answer in answers}) == 4


def test_expected_ids_of_a_tiny_vocabulary_stay_inside_it() -> None:
    assert set(expected_ids([9], 3, 0, 200, vocab_size=8)) == {3, 4, 5, 6, 7}


def test_request_without_delays_gives_the_expected_ids_and_length(clock: HandClock) -> None:
    engine = attached(clock)
    engine.add(request(max_tokens=20))
    events = drain(engine)
    assert ids_of(events) == expected_ids(PROMPT, 1, 0, 20)
    assert [event.finish for event in events[-2:]] == [None, "length"]


def test_stop_id_ends_the_request_and_is_sent(clock: HandClock) -> None:
    stop_id = expected_ids(PROMPT, 1, 0, 3)[2]
    engine = attached(clock)
    engine.add(msgspec.structs.replace(request(max_tokens=9), stop_token_ids=[stop_id]))
    events = drain(engine)
    assert (ids_of(events)[-1], events[-1].finish, len(events)) == (stop_id, "stop", 3)


def test_generated_ids_are_continued_exactly(clock: HandClock) -> None:
    whole = expected_ids(PROMPT, 1, 0, 10)
    engine = attached(clock)
    engine.add(msgspec.structs.replace(request(max_tokens=10), generated_ids=whole[:6]))
    assert ids_of(drain(engine)) == whole[6:]


def test_generated_ids_with_one_lost_change_the_rest(clock: HandClock) -> None:
    whole = expected_ids(PROMPT, 1, 0, 10)
    engine = attached(clock)
    engine.add(msgspec.structs.replace(request(max_tokens=9), generated_ids=whole[:4] + whole[5:6]))
    assert not set(ids_of(drain(engine))) & set(whole[6:])


def test_ids_come_when_due_and_keep_their_rate_after_a_late_step(clock: HandClock) -> None:
    engine = attached(clock, options={"prefill_s": 1.0, "token_s": 0.5})
    engine.add(request())
    assert engine.step() == []
    assert engine.due_in_s == pytest.approx(1.0)
    clock.pause(1.75)
    assert [len(engine.step()) for _ in range(3)] == [1, 1, 0]
    assert engine.due_in_s == pytest.approx(0.25)


def test_first_event_carries_wait_and_prefill(clock: HandClock) -> None:
    engine = attached(clock, options={"prefill_s": 1.0})
    engine.add(request())
    clock.pause(0.25)
    engine.step()
    clock.pause(1.0)
    first, second = engine.step() + engine.step()
    assert (first.wait_ms, first.prefill_ms) == pytest.approx((250.0, 1000.0))
    assert (second.wait_ms, second.prefill_ms) == (0.0, 0.0)


def test_more_requests_than_seats_wait_in_order(clock: HandClock) -> None:
    engine = attached(clock, max_num_seqs=2)
    for name in "abc":
        engine.add(request(name, max_tokens=2))
    steps = [[event.request_id for event in engine.step()] for _ in range(4)]
    assert steps == [["a", "b"], ["a", "b"], ["c"], ["c"]]


@pytest.mark.parametrize("cancelled", ["a", "b"])
def test_cancelled_request_running_or_queued_gives_no_more_ids(clock: HandClock, cancelled: str) -> None:
    engine = attached(clock, max_num_seqs=1)
    engine.add(request("a"))
    engine.add(request("b"))
    engine.step()
    engine.cancel(cancelled)
    assert cancelled not in {event.request_id for event in drain(engine)}


def test_quiesced_engine_computes_nothing_until_resumed(clock: HandClock) -> None:
    engine = attached(clock)
    engine.add(request())
    engine.quiesce()
    assert (engine.has_work, engine.step()) == (False, [])
    engine.resume()
    assert ids_of(drain(engine)) == expected_ids(PROMPT, 1, 0, 4)


def test_attach_lasts_load_s(clock: HandClock) -> None:
    attached(clock, options={"load_s": 2.0})
    assert clock.now_s == 102.0


def test_detached_engine_drops_requests_and_refuses_new_ones(clock: HandClock) -> None:
    engine = attached(clock)
    engine.add(request())
    engine.detach_weights()
    assert not engine.has_work
    with pytest.raises(EngineError, match="no model attached"):
        engine.add(request())


def test_request_beyond_the_context_is_refused_and_not_queued(clock: HandClock) -> None:
    engine = attached(clock, architecture={"max_position_embeddings": 6})
    with pytest.raises(ContextLengthError, match="context of 6 tokens"):
        engine.add(request(max_tokens=4))
    assert not engine.has_work


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"prompt_ids": []}, "prompt"), ({"max_tokens": 0}, "max_tokens")],
)
def test_empty_request_is_refused_naming_the_field(
    clock: HandClock, changes: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        attached(clock).add(msgspec.structs.replace(request(), **changes))
    assert refused.value.param == param


@pytest.mark.parametrize("options", [{"load_s": -1.0}, {"token_s": float("nan")}, {"tokens_s": 1.0}])
def test_attach_with_bad_option_names_it(clock: HandClock, options: dict[str, float]) -> None:
    with pytest.raises(EngineError, match=next(iter(options))):
        attached(clock, options=options)


@pytest.mark.parametrize("vocab_size", [3, "many", True, None])
def test_attach_with_absurd_vocabulary_is_refused(clock: HandClock, vocab_size: object) -> None:
    with pytest.raises(UnsupportedCheckpointError, match="vocab_size"):
        attached(clock, architecture={"vocab_size": vocab_size})


def streaming(clock: HandClock, num_shards: int, *, prefill_s: float) -> SimulatedEngine:
    engine = SimulatedEngine("float32", clock=clock, pause=clock.pause)
    layout = ModelLayout(architecture={}, tensors=[], groups=[], aliases={})
    shards = [(number, 1) for number in range(num_shards)]
    weights = Weights(memoryview(bytes(num_shards)), layout, shards, 0)
    engine.attach_weights(weights, EngineLimits(8, 0), {"prefill_s": prefill_s})
    return engine


@pytest.mark.parametrize(("shard_s", "first_s"), [(1.0, 4.25), (0.125, 1.125)])
def test_first_id_is_due_when_load_and_prefill_have_overlapped(
    clock: HandClock, shard_s: float, first_s: float
) -> None:
    engine = streaming(clock, 4, prefill_s=1.0)
    began_s = clock.now_s
    engine.add(request(max_tokens=1))
    for number in range(1, 5):
        assert not engine.has_work
        clock.pause(shard_s)
        engine.shards_arrived(number)
    clock.pause(engine.due_in_s)
    assert engine.step() == []
    clock.pause(engine.due_in_s)
    (event,) = engine.step()
    assert clock.now_s - began_s == first_s
    assert (event.wait_ms, event.prefill_ms, event.stall_ms) == (0, 1000, (first_s - 1) * 1e3)


def test_request_after_the_last_shard_waits_for_none(clock: HandClock) -> None:
    engine = streaming(clock, 2, prefill_s=1.0)
    engine.shards_arrived(2)
    clock.pause(5.0)
    engine.add(request(max_tokens=1))
    engine.step()
    assert engine.due_in_s == 1.0
