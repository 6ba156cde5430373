# SPDX-License-Identifier: Apache-2.0
"""Is everybody served, and how well?"""

from __future__ import annotations

from deploy.monitoring.dashboards.model import Dashboard, Panel, Query, or_zero, quantile, rate

TTFT = "gen_ai_server_time_to_first_token_seconds"
TPOT = "gen_ai_server_time_per_output_token_seconds"
MODEL = 'model=~"$model"'
SERVER_ERRORS = 'status=~"5.."'

OVERVIEW = Dashboard(
    "sllm-overview",
    "ServerlessLLM / Overview",
    [
        Panel(
            "Requests",
            "Requests that finished, per second.",
            [Query(rate("sllm_requests_total"), "requests")],
            "reqps",
            "stat",
            width=4,
            height=4,
        ),
        Panel(
            "Failed",
            "Share of requests that ended with a status of 5xx.",
            [
                Query(
                    f"({or_zero(rate('sllm_requests_total', labels=SERVER_ERRORS))}) / {rate('sllm_requests_total')}"
                )
            ],
            "percentunit",
            "stat",
            width=4,
            height=4,
        ),
        Panel(
            "Held",
            "Requests that wait for a model to wake.",
            [Query(or_zero("sum(sllm_held_requests)"), "held")],
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Open streams",
            "Client streams that are open.",
            [Query("sum(sllm_streams)", "streams")],
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Nodes",
            "Nodes that may be given work.",
            [Query('max(sllm_agents{alive="true"})', "alive")],
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Alerts",
            "Alerts that fire now.",
            [Query(or_zero('count(ALERTS{alertname=~"Sllm.*",alertstate="firing"})'), "firing")],
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Requests by status",
            "Finished requests, by HTTP status.",
            [Query(rate("sllm_requests_total", by="status"), "{{status}}")],
            "reqps",
            is_stacked=True,
        ),
        Panel(
            "Requests by start",
            "How often a model had to be woken: cold (its bytes were elsewhere), warm (on the node), hot (ready).",
            [Query(rate("sllm_requests_total", by="start"), "{{start}}")],
            "reqps",
            is_stacked=True,
        ),
        Panel(
            "Generated tokens",
            "Tokens that reached clients, per second.",
            [Query(rate("sllm_generated_tokens_total", by="model", labels=MODEL), "{{model}}")],
            "cps",
            is_stacked=True,
        ),
        Panel(
            "Time to first token, 95 %",
            "Arrival to the first token, by kind of start.",
            [Query(quantile(0.95, TTFT, "start", MODEL), "{{start}}")],
            "s",
        ),
        Panel(
            "Time to first token, hot",
            "What a model that is awake gives.",
            [
                Query(quantile(share, TTFT, labels=f'{MODEL},start="hot"'), name)
                for share, name in ((0.5, "50 %"), (0.95, "95 %"), (0.99, "99 %"))
            ],
            "s",
        ),
        Panel(
            "Time per output token",
            "Mean time per token after the first, per request.",
            [
                Query(quantile(share, TPOT, labels=MODEL), name)
                for share, name in ((0.5, "50 %"), (0.95, "95 %"))
            ],
            "s",
        ),
        Panel(
            "Held requests",
            "Requests that wait for their model to wake.",
            [Query(f"sum by (model) (sllm_held_requests{{{MODEL}}})", "{{model}}")],
            is_stacked=True,
        ),
        Panel(
            "Retries before the first token",
            "What clients did not notice, by reason.",
            [Query(or_zero(rate("sllm_retries_total", by="reason")), "{{reason}}")],
            "cps",
        ),
        Panel("Models", "Registered models by state.", [Query("max by (state) (sllm_models)", "{{state}}")]),
    ],
)
