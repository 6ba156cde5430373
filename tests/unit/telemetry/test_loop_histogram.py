# SPDX-License-Identifier: Apache-2.0
"""The histogram of the hot path tells what prometheus_client's own tells."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from serverlessllm.telemetry.histogram import LoopHistogram
from serverlessllm.telemetry.metrics import FINE_SECONDS


def text_of(kind: type[Histogram]) -> str:
    """What is scraped after the same observations, without the times of creation."""
    registry = CollectorRegistry()
    plain = kind("a_seconds", "A.", buckets=FINE_SECONDS, registry=registry)
    labelled = kind("b_seconds", "B.", ["model"], buckets=FINE_SECONDS, registry=registry)
    for value in (0.0, 0.001, 0.0011, 0.25, 2.5, 99.0):
        plain.observe(value)
        labelled.labels("m").observe(value)
        labelled.labels("n").observe(value / 2)
    return re.sub(r"(_created\S*) .*", r"\1", generate_latest(registry).decode())


def test_it_is_scraped_like_the_one_with_locks() -> None:
    assert text_of(LoopHistogram) == text_of(Histogram)
