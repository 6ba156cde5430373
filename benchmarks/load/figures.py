# SPDX-License-Identifier: Apache-2.0
"""From samples to figures and aims. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._harness.report import Aim
from benchmarks._harness.stats import median, median_interval

Samples = dict[str, list[dict[str, float]]]
"""Row → what each round answered."""

NO_COPY = ("torch_mmap", "transformers")
"""Peers whose tensors are views of the page cache: they move no bytes themselves."""

AIMS = {
    "arena_against_limit": Aim("load_arena_over_limit_ratio", ">=", 0.9),
    "bind_dram": Aim("bind_dram_ms", "<", 15.0),
}


def aims(peers: Sequence[str]) -> dict[str, Aim]:
    """Against each peer: not slower beyond the interval; cheaper than those that copy."""
    found = {f"fresh_against_{name}": Aim(f"load_fresh_over_{name}_high", ">=", 1.0) for name in peers}
    found |= {
        f"cpu_against_{name}": Aim(f"load_fresh_cpu_over_{name}_ratio", "<", 1.0)
        for name in peers
        if name not in NO_COPY
    }
    return found


def figures(samples: Samples, nbytes: int) -> dict[str, float]:
    """GB/s (10⁹ bytes), CPU-seconds per GB, milliseconds: medians. Ratios are medians of the rounds' own ratios."""
    gigabytes = nbytes / 1e9
    found: dict[str, float] = {}
    for row, values in samples.items():
        if row.startswith("warm_"):
            found[f"{row}_ms"] = median([value["seconds"] * 1e3 for value in values])
            continue
        seconds, cpu_s = ("load_s", "load_cpu_s") if "arena" in row else ("seconds", "cpu_s")
        found[f"{row}_gbps"] = gigabytes / median([value[seconds] for value in values])
        found[f"{row}_cpu_s_per_gb"] = median([value[cpu_s] for value in values]) / gigabytes
    for key in ("bind_ms", "touch_ms"):
        found[key.replace("_", "_dram_")] = median([value[key] for value in samples["load_arena"]])
    ratios = _ratios(samples["limit"], samples["load_arena"], "seconds", "load_s")
    found["load_arena_over_limit_ratio"] = median(ratios)
    for row in [row for row in samples if row.startswith("peer_")]:
        name = row.removeprefix("peer_")
        ratios = _ratios(samples[row], samples["load_fresh"], "seconds", "seconds")
        interval = median_interval(ratios)
        found[f"load_fresh_over_{name}_ratio"] = median(ratios)
        found[f"load_fresh_over_{name}_low"] = interval.low
        found[f"load_fresh_over_{name}_high"] = interval.high
        found["interval_confidence"] = interval.confidence
        cpu = _ratios(samples["load_fresh"], samples[row], "cpu_s", "cpu_s")
        found[f"load_fresh_cpu_over_{name}_ratio"] = median(cpu)
    return found


def _ratios(
    above: list[dict[str, float]], below: list[dict[str, float]], key: str, key_below: str
) -> list[float]:
    """Round by round; of times: how many times as fast the second is."""
    return [high[key] / low[key_below] for high, low in zip(above, below, strict=True)]
