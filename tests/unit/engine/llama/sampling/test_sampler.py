# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.engine.llama.sampling.noise import draw_bits, draw_key, gumbel, token_counters
from serverlessllm.engine.llama.sampling.penalties import Penalties
from serverlessllm.engine.llama.sampling.sampler import Draw, Sampler
from serverlessllm.wire.worker import SamplingParams

LOGITS = np.array([1.0, 3.0, 2.0, 3.0, -1.0], dtype=np.float32)


def sample(logits: np.ndarray, *draws: Draw) -> list[int]:
    rows = np.tile(logits.astype(np.float32), (len(draws), 1))
    return Sampler(logits.size).sample(rows, draws)


def test_temperature_0_takes_the_first_of_the_largest() -> None:
    assert sample(LOGITS, Draw(SamplingParams(temperature=0.0), 0, 9)) == [1]


def test_temperature_0_looks_after_the_penalties() -> None:
    params = SamplingParams(temperature=0.0, presence_penalty=2.0)
    assert sample(LOGITS, Draw(params, 0, 9, Penalties(params, [], [1, 3]))) == [2]


def test_vanishing_temperature_equals_greedy() -> None:
    draws = [Draw(SamplingParams(temperature=1e-40, seed=seed), 0, 1) for seed in range(20)]
    assert set(sample(np.array([0.0, 5.0, 4.9]), *draws)) == {1}


def test_one_survivor_is_taken_whatever_the_noise() -> None:
    draws = [Draw(SamplingParams(temperature=5.0, top_k=1, seed=seed), 0, 1) for seed in range(20)]
    assert set(sample(np.array([0.0, 1.0, 0.9]), *draws)) == {1}


def test_rows_are_sampled_independently_of_their_neighbours() -> None:
    draws = [
        Draw(SamplingParams(temperature=t, seed=3), choice, 4) for t in (0.0, 0.5, 2.0) for choice in (0, 1)
    ]
    assert sample(LOGITS, *draws) == [sample(LOGITS, draw)[0] for draw in draws]


@given(seed=st.integers(0, 2**63), spread=st.sampled_from([0.1, 2.0, 9.0]), temperature=st.floats(0.2, 3.0))
def test_choice_is_the_argmax_of_logits_plus_noise(seed: int, spread: float, temperature: float) -> None:
    logits = np.random.default_rng(seed % 997).normal(0, spread, 3000).astype(np.float32)
    noise = gumbel(draw_bits(draw_key(seed, 1, 77), token_counters(np.arange(3000))))
    perturbed = logits.astype(np.float64) / temperature + noise
    (chosen,) = sample(logits, Draw(SamplingParams(temperature=temperature, seed=seed), 1, 77))
    assert perturbed[chosen] > perturbed.max() - 1e-4


@pytest.mark.parametrize(
    ("params", "weights"),
    [
        (SamplingParams(temperature=1.0), [0.5, 0.25, 0.15, 0.1]),
        (SamplingParams(temperature=0.5), [0.25, 0.0625, 0.0225, 0.01]),
        (SamplingParams(temperature=1.0, top_k=2), [0.5, 0.25, 0, 0]),
        (SamplingParams(temperature=1.0, top_p=0.8), [0.5, 0.25, 0.15, 0]),
        (SamplingParams(temperature=1.0, min_p=0.25), [0.5, 0.25, 0.15, 0]),
    ],
)
def test_frequencies_match_the_filtered_softmax(params: SamplingParams, weights: list[float]) -> None:
    """Chi-square over 4000 positions of one seed; 27.9 is the 1 - 1e-5 quantile with 3 degrees of freedom."""
    num_draws = 4000
    expected = np.array(weights) / sum(weights) * num_draws
    draws = [Draw(params, 0, position) for position in range(num_draws)]
    counts = np.bincount(sample(np.log([0.5, 0.25, 0.15, 0.1]), *draws), minlength=4)
    assert counts[expected == 0].sum() == 0
    alive = expected > 0
    assert ((counts - expected)[alive] ** 2 / expected[alive]).sum() < 27.9


def test_rows_that_are_not_finite_still_yield_an_id() -> None:
    assert sample(np.array([0.0, np.nan, 1.0]), Draw(SamplingParams(), 0, 1))[0] in range(3)
