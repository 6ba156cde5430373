# SPDX-License-Identifier: Apache-2.0
"""Bandwidth as observed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.loader.bandwidth import BandwidthMeter

GB = 10**9


def test_unmeasured_tier_is_an_assumption_without_samples() -> None:
    estimate = BandwidthMeter().estimate("nvme")
    assert (estimate.mean_bytes_per_s, estimate.samples) == (1e9, 0)


def test_first_transfer_replaces_the_assumption() -> None:
    meter = BandwidthMeter()
    meter.observe("nvme", 3 * GB, 1.5)
    assert meter.estimate("nvme").mean_bytes_per_s == 2 * GB
    assert meter.estimate("remote").samples == 0


def test_steady_rate_has_no_variance_and_a_change_has() -> None:
    meter = BandwidthMeter()
    for _ in range(5):
        meter.observe("nvme", GB, 1.0)
    assert meter.estimate("nvme").variance == 0
    meter.observe("nvme", 2 * GB, 1.0)
    assert meter.estimate("nvme").mean_bytes_per_s == pytest.approx(1.25 * GB)
    assert meter.estimate("nvme").variance > 0
    assert meter.best_bytes_per_s("nvme") == 2 * GB


def test_small_transfer_moves_the_mean_little() -> None:
    meter = BandwidthMeter()
    meter.observe("nvme", GB, 1.0)
    meter.observe("nvme", 1000, 1.0)
    assert meter.estimate("nvme").mean_bytes_per_s > 0.99 * GB


@given(st.lists(st.tuples(st.integers(-1, 10**12), st.floats(-1, 1e4)), max_size=30))
def test_mean_stays_within_what_was_seen(transfers: list[tuple[int, float]]) -> None:
    meter = BandwidthMeter()
    rates = []
    for nbytes, seconds in transfers:
        meter.observe("nvme", nbytes, seconds)
        if nbytes > 0 and seconds >= 1e-9:
            rates.append(nbytes / seconds)
    estimate = meter.estimate("nvme")
    assert estimate.samples == len(rates)
    if rates:
        assert min(rates) * (1 - 1e-9) <= estimate.mean_bytes_per_s <= max(rates) * (1 + 1e-9)
        assert estimate.variance >= 0
