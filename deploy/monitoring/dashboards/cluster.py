# SPDX-License-Identifier: Apache-2.0
"""Who is there, since when, and what runs where?"""

from __future__ import annotations

from deploy.monitoring.dashboards.model import Dashboard, Panel, Query, or_zero, quantile, rate

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
            "Circuit breakers",
            "0 closed, 0.5 tried again, 1 open: the node gets no work.",
            [Query("max by (agent) (sllm_breaker_state)", "{{agent}}")],
        ),
        Panel(
            "Streams that broke",
            "By what came of them: attached (the same run went on), continued (elsewhere), failed.",
            [Query(or_zero(rate("sllm_resumes_total", "outcome")), "{{outcome}}")],
            "cps",
        ),
        Panel(
            "Orphans",
            "Runs without a connection, for a client or a front that may come back.",
            [Query("sum by (instance) (sllm_orphans)", "{{instance}}")],
        ),
        Panel(
            "Moves",
            "Running requests that left a node, by who asked and what came of it.",
            [Query(or_zero(rate("sllm_migrations_total", "reason, outcome")), "{{reason}} {{outcome}}")],
            "cps",
        ),
        Panel(
            "Preparing a move",
            "Beside the decoding: until the destination has computed what it needs.",
            [
                Query(quantile(share, "sllm_migration_prepare_seconds"), name)
                for share, name in ((0.5, "50 %"), (0.95, "95 %"))
            ],
            "s",
        ),
        Panel(
            "Moves under way",
            "Away from each node, and prepared there.",
            [
                Query("sum by (instance) (sllm_migrations_running)", "{{instance}} away"),
                Query("sum by (instance) (sllm_standbys)", "{{instance}} prepared"),
            ],
        ),
        Panel(
            "Moved",
            "Generated ids that moves sent, and keys and values that they copied.",
            [
                Query(rate("sllm_migrated_tokens_total", "instance"), "{{instance}} ids"),
                Query(rate("sllm_migration_copied_bytes_total", "instance"), "{{instance}} bytes"),
            ],
            "cps",
        ),
        Panel(
            "Turned away",
            "Requests that got 429, and loads that were begun on a second node for a deadline.",
            [
                Query(or_zero(rate("sllm_rejected_requests_total")), "turned away"),
                Query(or_zero(rate("sllm_hedges_total")), "hedged loads"),
            ],
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
