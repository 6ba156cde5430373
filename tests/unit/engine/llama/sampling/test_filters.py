# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from serverlessllm.engine.llama.sampling.filters import filter_threshold, has_filters
from serverlessllm.wire.worker import SamplingParams


def kept(scaled: np.ndarray, params: SamplingParams) -> list[int]:
    shifted = (scaled - scaled.max()).astype(np.float32)
    ids: list[int] = np.flatnonzero(shifted >= filter_threshold(shifted, params)).tolist()
    return ids


@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.5, 3.0, 20.0]))
def test_filters_keep_what_transformers_keeps(seed: int, spread: float) -> None:
    scaled = np.random.default_rng(seed).normal(0, spread, 300).astype(np.float32)
    for params, warper in (
        (SamplingParams(top_k=7), TopKLogitsWarper(7)),
        (SamplingParams(top_p=0.83), TopPLogitsWarper(0.83)),
        (SamplingParams(min_p=0.07), MinPLogitsWarper(0.07)),
    ):
        expected = torch.isfinite(warper(torch.zeros(1, 1, dtype=torch.long), torch.tensor(scaled)[None])[0])
        assert kept(scaled, params) == expected.nonzero().flatten().tolist()


def test_top_p_counts_what_top_k_left() -> None:
    scaled = np.log(np.array([0.4, 0.2, 0.2001, 0.1999], dtype=np.float32))
    assert kept(scaled, SamplingParams(top_p=0.65)) == [0, 1, 2]
    assert kept(scaled, SamplingParams(top_p=0.65, top_k=2)) == [0]


def test_equal_logits_are_kept_or_dropped_together() -> None:
    scaled = np.array([3.0, 1.0, 1.0, 1.0, 0.0], dtype=np.float32)
    assert kept(scaled, SamplingParams(top_k=2)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "params", [SamplingParams(top_k=1), SamplingParams(top_p=1e-9), SamplingParams(min_p=1.0)]
)
def test_largest_logit_always_survives(params: SamplingParams) -> None:
    assert kept(np.array([0.5, 2.0, -1.0]), params) == [1]


def test_ids_without_any_probability_are_never_in_the_nucleus() -> None:
    assert kept(np.array([-np.inf, 1.0, 0.9, -np.inf]), SamplingParams(top_p=0.999)) == [1, 2]


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    assert kept(np.array([0.5, 2.0, -1.0]), SamplingParams(top_k=50)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("params", "expected"),
    [(SamplingParams(), False), (SamplingParams(top_k=5), True), (SamplingParams(top_p=0.9), True)],
)
def test_filters_are_off_by_default(params: SamplingParams, expected: bool) -> None:
    assert has_filters(params) is expected
