# SPDX-License-Identifier: Apache-2.0
"""Who is there, since when, and what runs where?"""

from __future__ import annotations

from deploy.monitoring.dashboards.model import Dashboard, Panel, Query, rate

CLUSTER = Dashboard(
    "sllm-cluster",
    "ServerlessLLM / Cluster and migration",
    [
        Panel(
            "Nodes alive",
            "As each orchestrator sees it: they should agree.",
            [Query('sllm_agents{alive="true"}', "{{instance}}")],
        ),
        Panel(
            "Heartbeat age",
            "Since a node was last heard of; above 15 s it is lost.",
            [Query("sllm:heartbeat_age_seconds:min", "{{agent}}")],
            "s",
        ),
        Panel(
            "Replicas",
            "By node and state.",
            [Query("sum by (instance, state) (sllm_replicas)", "{{instance}} {{state}}")],
            is_stacked=True,
        ),
        Panel(
            "Loads",
            "Per node, by outcome: whether work is spread.",
            [Query(rate("sllm_loads_total", "instance, outcome"), "{{instance}} {{outcome}}")],
            "cps",
        ),
        Panel(
            "CPU",
            "Cores that each process uses; workers are processes of their own and not counted.",
            [Query(rate("process_cpu_seconds_total", "job, instance"), "{{job}} {{instance}}")],
        ),
        Panel(
            "Memory",
            "Resident memory of each process; mapped weights count where they were touched.",
            [Query("process_resident_memory_bytes", "{{job}} {{instance}}")],
            "bytes",
        ),
        Panel(
            "Scraped",
            "1: Prometheus gets the figures.",
            [Query('up{job=~"sllm-.*"}', "{{job}} {{instance}}")],
        ),
        Panel(
            "Up since",
            "Age of each process.",
            [Query('time() - process_start_time_seconds{job=~"sllm-.*"}', "{{job}} {{instance}}")],
            "s",
        ),
        Panel(
            "Versions",
            "What runs where: more than one version only during an upgrade.",
            [Query("count by (part, version) (sllm_build_info)")],
            kind="table",
        ),
    ],
)
