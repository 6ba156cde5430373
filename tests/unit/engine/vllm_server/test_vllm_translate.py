# SPDX-License-Identifier: Apache-2.0
"""Requests as vLLM takes them, and its chunks as our events."""

from __future__ import annotations

import msgspec
import pytest

from serverlessllm.engine.vllm_server.translate import Answer, Chunk, Usage, request_body
from serverlessllm.errors import EngineError
from serverlessllm.wire.worker import Generate, SamplingParams, TokenLogprobs

REQUEST = Generate(
    "r", [1, 2], 8, SamplingParams(temperature=0.5, seed=9), [7], generated_ids=[3], logprobs=1
)


def chunk(body: str) -> Chunk:
    return msgspec.json.decode(body, type=Chunk)


def test_ids_sampled_before_are_prompt_and_count_against_max_tokens() -> None:
    body = msgspec.json.decode(request_body(REQUEST))
    assert body["token_ids"] == [1, 2, 3]
    assert body["sampling_params"]["max_tokens"] == 7
    assert body["sampling_params"]["stop_token_ids"] == [7]
    assert body["sampling_params"]["ignore_eos"]


def test_choices_of_one_request_draw_with_different_seeds_that_fit_63_bits() -> None:
    seeds = set()
    for choice in range(4):
        body = msgspec.json.decode(request_body(msgspec.structs.replace(REQUEST, choice=choice)))
        seeds.add(body["sampling_params"]["seed"])
    assert len(seeds) == 4
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_empty_salt_is_not_sent() -> None:
    assert "cache_salt" not in msgspec.json.decode(request_body(REQUEST))
    salted = msgspec.structs.replace(REQUEST, cache_salt="s")
    assert msgspec.json.decode(request_body(salted))["cache_salt"] == "s"


def test_last_id_waits_for_the_usage_and_carries_cached_tokens() -> None:
    answer = Answer(REQUEST)
    first = answer.push(chunk('{"choices":[{"token_ids":[4,5]}]}'), 12.0)
    assert [(event.token_id, event.prefill_ms) for event in first] == [(4, 12.0), (5, 0.0)]
    assert answer.push(chunk('{"choices":[{"token_ids":[7],"finish_reason":"stop"}]}'), 13.0) == []
    usage = msgspec.json.decode('{"prompt_tokens_details":{"cached_tokens":32}}', type=Usage)
    last = answer.end(usage)
    assert (last.token_id, last.finish, last.cached_tokens) == (7, "stop", 32)


def test_most_likely_ids_fall_whatever_the_rank_of_the_sampled_one() -> None:
    body = (
        '{"choices":[{"token_ids":[4],"logprobs":{"content":[{"token_id":4,"logprob":-3.0,'
        '"top_logprobs":[{"token_id":4,"logprob":-3.0},{"token_id":8,"logprob":-0.1}]}]}}]}'
    )
    (event,) = Answer(REQUEST).push(chunk(body), 0.0)
    assert event.logprobs == TokenLogprobs(-3.0, [8], [-0.1])


def test_stream_that_ends_before_its_last_id_is_an_error() -> None:
    answer = Answer(REQUEST)
    answer.push(chunk('{"choices":[{"token_ids":[4]}]}'), 0.0)
    with pytest.raises(EngineError, match="before its last id"):
        answer.end(None)


@pytest.mark.parametrize(
    "body",
    ['{"error":{"message":"out of blocks"}}', '{"choices":[{"token_ids":[4],"finish_reason":"abort"}]}'],
)
def test_failure_in_the_stream_is_an_engine_error(body: str) -> None:
    with pytest.raises(EngineError, match="vLLM"):
        Answer(REQUEST).push(chunk(body), 0.0)
