# SPDX-License-Identifier: Apache-2.0
"""How often models are called."""

from __future__ import annotations

import numpy as np
import pytest

from serverlessllm.orchestrator.placement.demand import MEMORY_S, Demand


def test_steady_calls_show_their_rate_and_silence_forgets_it() -> None:
    demand = Demand()
    for tick in range(2000):
        demand.note(3, tick / 10)
    assert demand.rate(3, 200.0) == pytest.approx(10.0, rel=0.05)
    assert demand.fast_rate(3, 200.0) == pytest.approx(10.0, rel=0.05)
    assert demand.rate(3, 200.0 + 10 * MEMORY_S) < 0.01


def test_unknown_and_empty_indexes_have_no_rate_and_new_ones_make_room() -> None:
    demand = Demand(num_models=2)
    demand.note(500, 0.0)
    assert demand.rates(np.array([[500, -1], [501, 10_000]]), 0.0).tolist() == [
        [1 / MEMORY_S, 0.0],
        [0.0, 0.0],
    ]
