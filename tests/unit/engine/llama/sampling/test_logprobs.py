# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from serverlessllm.engine.llama.sampling.logprobs import RowLogprobs
from serverlessllm.wire.worker import SamplingParams
from support.tiny_llama import attached_engine, build_tiny, request, run_all


def test_top_falls_and_the_lower_id_wins_a_tie() -> None:
    logprobs = RowLogprobs(np.array([1.0, 3.0, 1.0, 3.0, 1.0], np.float32), 3).of(4)
    assert logprobs.top_ids == [1, 3, 0]
    assert logprobs.top_logprobs == sorted(logprobs.top_logprobs, reverse=True)
    assert logprobs.logprob == logprobs.top_logprobs[2]


def test_no_top_is_kept_where_none_is_wanted() -> None:
    logprobs = RowLogprobs(np.zeros(4, np.float32), 0).of(1)
    assert (logprobs.top_ids, logprobs.top_logprobs) == ([], [])
    assert logprobs.logprob == pytest.approx(-np.log(4))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_logprobs_are_those_of_transformers(family: str) -> None:
    tiny = build_tiny(family)
    engine = attached_engine(tiny.weights)
    sampling = SamplingParams(temperature=1.4, top_k=5, presence_penalty=1.0, seed=2)
    engine.add(request("r", [5, 6, 7], 6, sampling, logprobs=4))
    ids = [5, 6, 7]
    for event in run_all(engine)["r"]:
        expected = torch.log_softmax(tiny.reference_logits(ids)[-1], -1)
        assert event.logprobs is not None
        assert abs(event.logprobs.logprob - expected[event.token_id]) < 1e-4
        assert event.logprobs.top_ids == expected.topk(4).indices.tolist()
        assert abs(torch.tensor(event.logprobs.top_logprobs) - expected.topk(4).values).max() < 1e-4
        ids = [*ids, event.token_id]


def test_event_carries_none_unless_asked() -> None:
    engine = attached_engine(build_tiny("llama").weights)
    engine.add(request("r", [1], 2))
    assert [event.logprobs for event in run_all(engine)["r"]] == [None, None]
