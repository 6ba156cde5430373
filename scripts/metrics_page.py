# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md, made from the declarations in telemetry/metrics.py. `--write` updates it; a test compares."""

from __future__ import annotations

import sys
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from serverlessllm.telemetry.metrics import AgentMetrics, OrchestratorMetrics

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
HEAD = """# Metrics

Prometheus' text format at `/metrics` of the orchestrator and of each agent. Made by `scripts/metrics_page.py` from
the declarations in `src/serverlessllm/telemetry/metrics.py`. Counters end in `_total`, histograms have `_bucket`,
`_sum` and `_count`; units are in the names.
"""


def rows(registry: CollectorRegistry) -> str:
    """One table row per metric, by name."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    metrics = {id(m): m for m in registry._collector_to_names if isinstance(m, MetricWrapperBase)}
    for metric in sorted(metrics.values(), key=lambda metric: metric._name):
        suffix = "_total" if metric._type == "counter" else ""
        labels = ", ".join(metric._labelnames) or "–"
        lines.append(f"| `{metric._name}{suffix}` | {metric._type} | {labels} | {metric._documentation} |")
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Orchestrator\n", rows(OrchestratorMetrics().registry)]
    return "\n".join([*parts, "\n## Agent\n", rows(AgentMetrics().registry)]) + "\n"


def main() -> None:
    """Print, or write."""
    if "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main()
