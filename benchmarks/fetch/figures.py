# SPDX-License-Identifier: Apache-2.0
"""From the rounds' timings to figures, and what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._harness.paired import Interval, paired_ratio
from benchmarks._harness.report import Aim
from benchmarks._harness.stats import median
from benchmarks.fetch.rows import Object

Samples = dict[str, list[dict[str, float]]]

AIMS = {
    "single_origin": Aim("fetch_over_curls_b3sum_ratio", ">=", 1.0),
    "single_origin_fresh_memory": Aim("fetch_fresh_over_curls_b3sum_ratio", ">=", 1.0),
    "single_origin_cpu": Aim("fetch_cpu_over_curls_b3sum_ratio", "<=", 1.0),
    "single_origin_fresh_memory_cpu": Aim("fetch_fresh_cpu_over_curls_b3sum_ratio", "<=", 1.0),
    "s3_against_obstore": Aim("s3_unverified_over_obstore_ratio", ">=", 1.0),
    "s3_cpu_against_boto3": Aim("s3_cpu_over_boto3_ratio", "<", 1.0),
    "two_origins": Aim("two_origins_share_ratio", ">=", 0.9),
}


def figures(samples: Samples, what: Object) -> dict[str, float]:
    """Speed in 10⁹ bytes per second and client CPU-seconds per 10⁹ bytes, medians; then paired ratios."""
    found: dict[str, float] = {}
    for name, values in samples.items():
        found[f"{name}_gbps"] = median(_speeds(samples, name, what))
        found[f"{name}_cpu_s_per_gb"] = median([one["cpu_s"] for one in values]) / what.nbytes_of(name) * 1e9
    curl_s = median([one["curl_s"] for one in samples["curls_b3sum"]])
    found["curls_gbps"] = what.nbytes / curl_s / 1e9
    for name, ratio in _ratios(samples, what).items():
        found |= ratio.as_figures(name)
    return found


def _ratios(samples: Samples, what: Object) -> dict[str, Interval]:
    def speed(ours: str, theirs: str) -> Interval:
        return paired_ratio(_speeds(samples, ours, what), _speeds(samples, theirs, what))

    def cpu(ours: str, theirs: str) -> Interval:
        return paired_ratio(*([one["cpu_s"] for one in samples[name]] for name in (ours, theirs)))

    def share(both: str, *alone: str) -> Interval:
        sums = [sum(one) for one in zip(*(_speeds(samples, name, what) for name in alone), strict=True)]
        return paired_ratio(_speeds(samples, both, what), sums)

    found = {
        "fetch_over_curls_b3sum": speed("fetch", "curls_b3sum"),
        "fetch_fresh_over_curls_b3sum": speed("fetch_fresh", "curls_b3sum"),
        "fetch_cpu_over_curls_b3sum": cpu("fetch", "curls_b3sum"),
        "fetch_fresh_cpu_over_curls_b3sum": cpu("fetch_fresh", "curls_b3sum"),
        "s3_unverified_over_obstore": speed("s3_unverified", "s3_obstore"),
        "s3_over_obstore": speed("s3", "s3_obstore"),
        "s3_over_boto3": speed("s3", "s3_boto3"),
        "s3_cpu_over_obstore": cpu("s3", "s3_obstore"),
        "s3_cpu_over_boto3": cpu("s3", "s3_boto3"),
    }
    if "two_origins" in samples:
        found["two_origins_share"] = share("two_origins", "link_fast", "link_slow")
        found["two_origins_cpu_bound_share"] = share("two_origins_cpu_bound", "fetch", "origin_tenth")
    return found


def _speeds(samples: Samples, name: str, what: Object) -> Sequence[float]:
    return [what.nbytes_of(name) / one["seconds"] / 1e9 for one in samples[name]]
