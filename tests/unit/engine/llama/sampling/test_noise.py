# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from serverlessllm.engine.llama.sampling.noise import draw_bits, draw_key, gumbel, token_counters


def bits_of(seed: int, choice: int, position: int, token_ids: list[int]) -> list[int]:
    counters = token_counters(np.array(token_ids, dtype=np.int64))
    bits: list[int] = draw_bits(draw_key(seed, choice, position), counters).tolist()
    return bits


def test_first_outputs_are_those_of_splitmix64() -> None:
    """The published outputs of SplitMix64 from state 1234567."""
    counters = token_counters(np.arange(5, dtype=np.int64))
    assert draw_bits(1234567, counters).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize(
    ("seed", "choice", "position", "expected"),
    [
        (0, 0, 0, [3235846975224723415, 11653558156160157010]),
        (42, 1, 37, [12877177343319373113, 1419021068722695344]),
        (-1, 0, 8191, [5854668574670324938, 8122878709188363058]),
    ],
)
def test_bits_are_pinned(seed: int, choice: int, position: int, expected: list[int]) -> None:
    assert bits_of(seed, choice, position, [0, 49151]) == expected


def test_bits_of_an_id_do_not_depend_on_the_other_ids() -> None:
    assert bits_of(7, 0, 3, [100, 5])[1] == bits_of(7, 0, 3, [5])[0]


def test_noise_is_finite_at_both_ends() -> None:
    low, high = gumbel(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert low == pytest.approx(-3.6038, abs=1e-3)
    assert high == pytest.approx(36.737, abs=1e-3)


def test_noise_has_the_moments_of_a_standard_gumbel() -> None:
    noise = gumbel(draw_bits(draw_key(1, 2, 3), token_counters(np.arange(200_000))))
    assert noise.mean() == pytest.approx(0.5772, abs=0.01)
    assert noise.std() == pytest.approx(np.pi / np.sqrt(6), abs=0.01)


def test_neighbouring_draws_are_uncorrelated() -> None:
    counters = token_counters(np.arange(100_000))
    first, second = (gumbel(draw_bits(draw_key(0, 0, position), counters)) for position in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.015
