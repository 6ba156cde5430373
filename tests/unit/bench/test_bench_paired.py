# SPDX-License-Identifier: Apache-2.0
"""The interval of paired rounds: what disturbs both sides cancels, and few rounds promise little."""

from __future__ import annotations

import random

import pytest
from benchmarks._harness.paired import paired_ratio


def test_disturbance_of_a_whole_round_cancels() -> None:
    found = paired_ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("n", "num_skipped"), [(1, 0), (5, 0), (7, 0), (8, 0), (9, 1), (12, 2), (15, 3), (20, 5)]
)
def test_interval_leaves_out_as_many_extremes_as_the_binomial_table_says(n: int, num_skipped: int) -> None:
    found = paired_ratio([float(number) for number in range(1, n + 1)], [1.0] * n)
    assert (found.low, found.high) == (1 + num_skipped, n - num_skipped)


def test_interval_holds_the_true_median_nineteen_times_of_twenty() -> None:
    generator = random.Random(4)
    rounds = [paired_ratio([generator.expovariate(1) for _ in range(15)], [1.0] * 15) for _ in range(2000)]
    held = sum(one.low <= 0.6931 <= one.high for one in rounds)
    assert held / len(rounds) >= 0.95


def test_rounds_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter|longer"):
        paired_ratio([1.0, 2.0], [1.0])
