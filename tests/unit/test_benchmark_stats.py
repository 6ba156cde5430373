# SPDX-License-Identifier: Apache-2.0
"""Intervals of medians, and the figures of `bench load`."""

from __future__ import annotations

import pytest
from benchmarks._harness.stats import median_interval
from benchmarks.load.figures import AIMS, Samples, aims, figures


@pytest.mark.parametrize(
    ("n", "low", "high", "confidence"),
    [(15, 4, 12, 0.9648), (6, 1, 6, 0.96875), (5, 1, 5, 0.9375), (20, 6, 15, 0.9586)],
)
def test_interval_has_the_ranks_of_the_sign_test(n: int, low: int, high: int, confidence: float) -> None:
    found = median_interval(range(n, 0, -1))
    assert (found.low, found.high) == (low, high)
    assert found.confidence == pytest.approx(confidence, abs=1e-4)


def row(seconds: float, **more: float) -> list[dict[str, float]]:
    return [{"seconds": seconds, "cpu_s": seconds / 10, **more}] * 6


def test_load_figures_compare_equal_work() -> None:
    arena = row(1.25, load_s=1.0, load_cpu_s=0.1, bind_ms=7.0, touch_ms=20.0)
    samples: Samples = {
        "limit": row(0.95),
        "load_arena": arena,
        "load_fresh": row(2.0),
        "peer_safetensors": row(3.0),
        "warm_safetensors": row(0.1),
    }
    found = figures(samples, 3_000_000_000)
    assert found["load_arena_gbps"] == pytest.approx(3.0)
    assert found["load_fresh_gbps"] == pytest.approx(1.5)
    assert found["peer_safetensors_cpu_s_per_gb"] == pytest.approx(0.1)
    assert found["warm_safetensors_ms"] == pytest.approx(100)
    assert (found["bind_dram_ms"], found["touch_dram_ms"]) == (7.0, 20.0)
    assert found["load_fresh_over_safetensors_high"] == pytest.approx(1.5)
    assert all(aim.holds(found) for aim in (AIMS | aims(["safetensors"])).values())


def test_peers_that_copy_nothing_are_not_compared_by_cpu() -> None:
    assert "cpu_against_torch" in aims(["torch"])
    assert "cpu_against_torch_mmap" not in aims(["torch_mmap"])
