# SPDX-License-Identifier: Apache-2.0
"""What do engines compute, what waits for them, and what is found in their caches?"""

from __future__ import annotations

from deploy.monitoring.dashboards.model import Dashboard, Panel, Query, or_zero, quantile, rate

MODEL = 'model=~"$model"'

ENGINES = Dashboard(
    "sllm-engines",
    "ServerlessLLM / Engines and KV",
    [
        Panel(
            "Sampled tokens",
            "Token ids that engines sampled, per second; more than clients got when choices were cancelled.",
            [Query(rate("sllm_engine_tokens_total", "model", MODEL), "{{model}}")],
            "cps",
            is_stacked=True,
        ),
        Panel(
            "Running requests",
            "Requests in a seat of a replica.",
            [Query(f"sum by (instance, model) (sllm_running_requests{{{MODEL}}})", "{{instance}} {{model}}")],
            is_stacked=True,
        ),
        Panel(
            "Queue",
            "Requests that wait for a seat: a replica is too few.",
            [Query(f"sum by (instance, model) (sllm_queue_length{{{MODEL}}})", "{{instance}} {{model}}")],
            is_stacked=True,
        ),
        Panel(
            "Gap between tokens",
            "As the front sees it (ITL).",
            [
                Query(quantile(share, "sllm_inter_token_seconds", labels=MODEL), name)
                for share, name in ((0.5, "50 %"), (0.95, "95 %"), (0.99, "99 %"))
            ],
            "s",
        ),
        Panel(
            "Gap between tokens, 95 %, by model",
            "Which model is slow.",
            [Query(quantile(0.95, "sllm_inter_token_seconds", "model", MODEL), "{{model}}")],
            "s",
        ),
        Panel(
            "Prompt tokens found in caches",
            "Share that was not computed again, over about the last hundred requests of a model.",
            [Query(f"avg by (model) (sllm_kv_hit_ratio{{{MODEL}}})", "{{model}}")],
            "percentunit",
        ),
        Panel(
            "Cached chunks of prompts",
            "512 bytes of text each, by node and model.",
            [Query(f"sum by (instance, model) (sllm_kv_chunks{{{MODEL}}})", "{{instance}} {{model}}")],
        ),
        Panel(
            "Slots",
            "Workers by engine and state: primed ones wait for a model, bound ones have one.",
            [Query("sum by (engine, state) (sllm_slots)", "{{engine}} {{state}}")],
            is_stacked=True,
        ),
        Panel(
            "Workers that died",
            "Ended unasked, within an hour.",
            [
                Query(
                    or_zero("sum by (instance, engine) (increase(sllm_worker_deaths_total[1h]))"),
                    "{{engine}}",
                )
            ],
        ),
    ],
)
