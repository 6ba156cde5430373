# SPDX-License-Identifier: Apache-2.0
"""Where does the time of a start go, by phase and by the tier that its bytes came from?"""

from __future__ import annotations

from deploy.monitoring.dashboards.model import RATE, Dashboard, Panel, Query, or_zero, quantile, rate

PHASE = "sllm_start_seconds"
TTFT = "gen_ai_server_time_to_first_token_seconds"
SLO = "sllm:cold_start_slo_errors:ratio_rate"
OBJECTIVE = 0.01
"""Share of starts that may be late, as in alerts.yml."""


def _mean_phases(title: str, start: str, tier: str) -> Panel:
    """The phases of one kind of start, stacked: their sum is the mean time to the first token."""
    labels = f'start="{start}",tier="{tier}"'
    total = f"sum by (phase) (rate({PHASE}_sum{{{labels}}}[{RATE}]))"
    starts = f'scalar(sum(rate({PHASE}_count{{{labels},phase="first_token"}}[{RATE}])))'
    return Panel(
        title,
        f"Mean duration of each phase of {start} starts from {tier}; together the mean time to the first token.",
        [Query(f"{total} / {starts}", "{{phase}}")],
        "s",
        is_stacked=True,
    )


COLD_START = Dashboard(
    "sllm-cold-start",
    "ServerlessLLM / Cold start",
    [
        _mean_phases("Cold: from a store or hub", "cold", "remote"),
        _mean_phases("Warm: from NVMe", "warm", "nvme"),
        _mean_phases("Warm: from DRAM", "warm", "dram"),
        Panel(
            "Starts",
            "Requests that had to wait for a start, by kind and tier.",
            [
                Query(
                    rate(f"{PHASE}_count", "start, tier", 'phase="first_token",start!="hot"'),
                    "{{start}} {{tier}}",
                )
            ],
            "cps",
            is_stacked=True,
        ),
        Panel(
            "Time to first token of starts",
            "How the times of cold and warm starts are spread.",
            [Query(f'sum by (le) (increase({TTFT}_bucket{{start=~"cold|warm"}}[{RATE}]))', "{{le}}")],
            "s",
            "heatmap",
            width=16,
        ),
        Panel(
            "Phases, 95 %",
            "Each phase by kind of start and tier.",
            [Query(quantile(0.95, PHASE, "start, tier, phase"), "{{start}} {{tier}} {{phase}}")],
            "s",
            width=16,
        ),
        Panel(
            "Wake-ups",
            "By outcome; cancelled: who waited has left.",
            [Query(rate("sllm_wakes_total", "outcome"), "{{outcome}}")],
            "cps",
        ),
        Panel(
            "Loads, 95 %",
            "Bytes into DRAM, as nodes see it, by the tier they came from.",
            [Query(quantile(0.95, "sllm_load_seconds", "tier"), "{{tier}}")],
            "s",
        ),
        Panel(
            "Binding, 95 %",
            "Until a worker has taken the weights.",
            [Query(quantile(0.95, "sllm_bind_seconds", "engine"), "{{engine}}")],
            "s",
        ),
        Panel(
            "Failed loads",
            "Per second, by node.",
            [Query(rate("sllm_loads_total", "instance", 'outcome="failed"'), "{{instance}}")],
            "cps",
        ),
        Panel(
            "Burn rate of the objective",
            "How fast the budget of late starts (1 %) is used: 1 uses it up exactly within its period.",
            [Query(f"{SLO}{window} / {OBJECTIVE}", window) for window in ("5m", "1h", "6h", "3d")],
            width=16,
        ),
        Panel(
            "In time",
            "Share of starts of the last hour that gave their first token within 10 seconds.",
            [Query(f"1 - {SLO}1h")],
            "percentunit",
            "stat",
        ),
        Panel(
            "Waiting slots",
            "Workers that are primed: a start without one waits for a fork.",
            [
                Query(
                    or_zero('sum by (instance, engine) (sllm_slots{state="primed"})'),
                    "{{instance}} {{engine}}",
                )
            ],
            width=24,
        ),
    ],
)
