# SPDX-License-Identifier: Apache-2.0
"""The metrics of several workers as those of one."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from serverlessllm.telemetry.merge import merge_metrics
from serverlessllm.telemetry.metrics import OrchestratorMetrics


def sample(text: bytes, name: str, **labels: str) -> float:
    """The value of one sample."""
    return next(
        found.value
        for family in text_string_to_metric_families(text.decode())
        for found in family.samples
        if found.name == name and labels.items() <= found.labels.items()
    )


def test_counters_and_histograms_add_up_states_do_not() -> None:
    one, two = OrchestratorMetrics(), OrchestratorMetrics()
    for metrics, count in ((one, 2), (two, 3)):
        metrics.requests.labels("chat", "200", "hot").inc(count)
        metrics.time_to_first_token.labels("m", "hot").observe(count)
        metrics.streams.set(count)
        metrics.agents.labels("true").set(7)
    two.requests.labels("chat", "429", "hot").inc()
    merged = merge_metrics([one.render(), two.render()])
    assert sample(merged, "sllm_requests_total", status="200") == 5
    assert sample(merged, "sllm_requests_total", status="429") == 1
    assert sample(merged, "gen_ai_server_time_to_first_token_seconds_count") == 2
    assert sample(merged, "gen_ai_server_time_to_first_token_seconds_bucket", le="2.5") == 1
    assert sample(merged, "sllm_streams") == 5
    assert sample(merged, "sllm_agents", alive="true") == 7


def test_metrics_of_one_are_unchanged() -> None:
    metrics = OrchestratorMetrics()
    metrics.requests.labels('a"b\\c', "200", "hot").inc()
    text = metrics.render()
    assert sorted(merge_metrics([text]).splitlines()) == sorted(text.splitlines())
