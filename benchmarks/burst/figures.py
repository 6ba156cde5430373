# SPDX-License-Identifier: Apache-2.0
"""What runs say: percentiles of TTFT, shares, and ratios of policies over the same seeds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks._harness.paired import paired_ratio
from benchmarks._harness.report import Aim
from benchmarks._harness.stats import percentile

PERCENTS = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Sample:
    """One call: its TTFT, whether its model had no ready replica when it came, and its HTTP status."""

    ttft_s: float
    is_cold: bool
    status: int = 200


Runs = Mapping[str, Sequence[Sequence[Sample]]]
"""Policy → one list of samples per seed, the seeds in the same order."""


def policy_figures(prefix: str, runs: Sequence[Sequence[Sample]]) -> dict[str, float]:
    """Over the calls of all seeds together."""
    samples = [sample for run in runs for sample in run]
    answered = [sample for sample in samples if 200 <= sample.status < 300]
    cold = [sample.ttft_s for sample in answered if sample.is_cold]
    hot = [sample.ttft_s for sample in answered if not sample.is_cold]
    found = {
        f"{prefix}_{name}p{percent}_{'ttft_s' if not name else 's'}": percentile(values, percent)
        for name, values in (("", cold + hot), ("cold_", cold), ("hot_", hot))
        if values
        for percent in PERCENTS
    }
    found[f"{prefix}_cold_share_ratio"] = len(cold) / max(1, len(answered))
    found[f"{prefix}_non_2xx"] = float(len(samples) - len(answered))
    return found


def comparisons(setting: str, runs: Runs) -> dict[str, float]:
    """P95 of the full score over the others', seed by seed."""
    p95s = {
        policy: [percentile([sample.ttft_s for sample in run], 95) for run in of_policy]
        for policy, of_policy in runs.items()
    }
    found: dict[str, float] = {}
    for other in ("queue", "random"):
        if "full" in p95s and other in p95s:
            interval = paired_ratio(p95s["full"], p95s[other])
            found |= interval.as_figures(f"{setting}_full_over_{other}_p95")
    return found


def aims(figures: Mapping[str, float], prefix: str) -> dict[str, Aim]:
    """The aims, where what they ask for was measured. `prefix`: empty for real runs, `sim_` for simulated ones."""
    wanted = {
        f"{prefix}p95_6_slots": Aim(f"{prefix}slots6_full_p95_ttft_s", "<", 2.0),
        f"{prefix}full_beats_queue_4_slots": Aim(f"{prefix}slots4_full_over_queue_p95_ratio", "<=", 0.7),
        f"{prefix}full_beats_random_4_slots": Aim(f"{prefix}slots4_full_over_random_p95_ratio", "<=", 0.5),
        f"{prefix}cold_p95_over_oracle_6_slots": Aim(f"{prefix}slots6_cold_p95_over_oracle_ratio", "<=", 1.5),
        f"{prefix}cold_p95_over_oracle_4_slots": Aim(f"{prefix}slots4_cold_p95_over_oracle_ratio", "<=", 1.5),
    }
    if not prefix:
        wanted["no_failures"] = Aim("non_2xx", "<=", 0.0)
    return {name: aim for name, aim in wanted.items() if aim.figure in figures}
