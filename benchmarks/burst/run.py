# SPDX-License-Identifier: Apache-2.0
"""Does placement by bytes, queue and value pay when many models share few places? See README.md beside this file."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks._harness.report import Report, machine
from benchmarks.burst import real_engine, trace
from benchmarks.burst.client import Answered, replay
from benchmarks.burst.cluster import BurstCluster
from benchmarks.burst.figures import Sample, aims, comparisons, policy_figures
from benchmarks.burst.hardware import SCALE, Hardware
from benchmarks.burst.models import write_artifacts
from benchmarks.burst.policies import WEIGHTS, simulate
from serverlessllm.sdk.orchestrator import Client

HERE = Path(__file__).resolve().parent
BOUNDS: Final = ("oracle", "lru_idle")


@dataclass(slots=True)
class Plan:
    """What to run."""

    seconds: float
    seeds: Sequence[int]
    sim_seeds: Sequence[int]
    settings: Sequence[int]
    policies: Sequence[str]
    with_torch: bool


@dataclass(slots=True)
class Collected:
    """Setting → policy → samples per seed, simulated and real."""

    simulated: dict[int, dict[str, list[list[Sample]]]] = field(default_factory=dict)
    real: dict[int, dict[str, list[list[Sample]]]] = field(default_factory=dict)
    torch: list[Sample] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)


def run(plan: Plan) -> Report:
    """The bounds first, then the simulated ablation, then the real cluster."""
    collected = Collected()
    for seats in plan.settings:
        collected.simulated[seats] = _simulate(Hardware(num_seats=seats), plan)
    if plan.seeds:
        with tempfile.TemporaryDirectory(prefix="burst-", dir="/dev/shm") as home:
            artifacts = write_artifacts(Path(home) / "artifacts", Hardware(), trace.NUM_MODELS)
            for seats in plan.settings:
                hardware = Hardware(num_seats=seats)
                place = Path(home) / f"slots{seats}"
                place.mkdir()
                with BurstCluster(place, hardware, artifacts) as cluster:
                    collected.real[seats] = _replay_all(cluster, plan, collected.late_s)
    if plan.with_torch:
        collected.torch = [_sample(each, real_engine.HARDWARE) for each in real_engine.run()]
        _show("real, engine torch, full", [collected.torch])
    figures = _figures(collected)
    return Report("burst", _conditions(plan), figures, aims(figures, "") | aims(figures, "sim_"))


def _simulate(hardware: Hardware, plan: Plan) -> dict[str, list[list[Sample]]]:
    found: dict[str, list[list[Sample]]] = {}
    for policy in (*BOUNDS, *WEIGHTS):
        found[policy] = [
            simulate(policy, hardware, trace.make_trace(seed, plan.seconds), seed) for seed in plan.sim_seeds
        ]
        _show(f"simulated, {hardware.num_seats} slots, {policy}", found[policy])
    return found


def _replay_all(cluster: BurstCluster, plan: Plan, late_s: list[float]) -> dict[str, list[list[Sample]]]:
    """Every policy on every seed, the policies of one seed one after another."""
    found: dict[str, list[list[Sample]]] = {policy: [] for policy in plan.policies}
    for seed in plan.seeds:
        calls = trace.make_trace(seed, plan.seconds)
        for policy in plan.policies:
            with Client(cluster.front.url) as client:
                client.set_weights(**{f"w_{term}": factor for term, factor in WEIGHTS[policy].items()})
            asyncio.run(cluster.prepare())
            before = cluster.cpu_s()
            answered, late = asyncio.run(replay(cluster.front.url, calls, cluster.hardware))
            used = {role: seconds - before[role] for role, seconds in cluster.cpu_s().items()}
            late_s.append(late)
            found[policy].append([_sample(each, cluster.hardware) for each in answered])
            title = f"real, {cluster.hardware.num_seats} slots, {policy}, seed {seed}"
            _show(title, found[policy][-1:])
            cores = ", ".join(f"{role} {seconds / plan.seconds:.2f}" for role, seconds in used.items())
            print(f"    cores used: {cores}; calls left late by {late * 1e3:.0f} ms at P95", flush=True)
    return found


def _sample(answered: Answered, hardware: Hardware) -> Sample:
    """An answer that is not whole counts as failed, whatever its status was."""
    is_right = answered.is_whole and answered.num_tokens == hardware.answer_tokens
    status = answered.status if is_right or answered.status != 200 else 598
    return Sample(answered.ttft_s, answered.start != "hot", status)


def _figures(collected: Collected) -> dict[str, float]:
    figures: dict[str, float] = {}
    for prefix, by_setting in (("sim_", collected.simulated), ("", collected.real)):
        for seats, runs in by_setting.items():
            name = f"{prefix}slots{seats}"
            for policy, of_policy in runs.items():
                figures |= policy_figures(f"{name}_{policy}", of_policy)
            figures |= comparisons(name, runs)
            oracle_s = figures[f"sim_slots{seats}_oracle_cold_p95_s"]
            figures[f"{name}_oracle_cold_p95_s"] = oracle_s
            if "full" in runs:
                figures[f"{name}_cold_p95_over_oracle_ratio"] = figures[f"{name}_full_cold_p95_s"] / oracle_s
    if collected.torch:
        figures |= policy_figures("torch", [collected.torch])
    if collected.real:
        figures["non_2xx"] = sum(value for name, value in figures.items() if name.endswith("_non_2xx"))
        figures["client_late_p95_s"] = max(collected.late_s)
    return figures


def _show(title: str, runs: Sequence[Sequence[Sample]]) -> None:
    found = policy_figures("x", runs)
    shown = {name.removeprefix("x_"): value for name, value in found.items()}
    print(
        f"{title:<38} P50 {shown['p50_ttft_s']:6.3f}  P95 {shown['p95_ttft_s']:6.3f}  "
        f"P99 {shown['p99_ttft_s']:6.3f} s   cold {shown['cold_share_ratio']:5.1%}, "
        f"P95 {shown.get('cold_p95_s', 0.0):6.3f} s   failed {shown['non_2xx']:.0f}",
        flush=True,
    )


def _conditions(plan: Plan) -> dict[str, object]:
    hardware = Hardware()
    return machine(("serverlessllm", "numpy", "aiohttp")) | {
        "seconds": plan.seconds,
        "real_seeds": list(plan.seeds),
        "simulated_seeds": list(plan.sim_seeds),
        "trace_digest": trace.digest(trace.make_trace(trace.SEEDS[0], 120.0)),
        "cluster": "1 orchestrator, 4 agents, client: all on this machine; metadata in SQLite on tmpfs",
        "model": f"simulated 7B: {hardware.model_bytes / 1e9:g} GB, NVMe {hardware.nvme_bytes_per_s / 1e9:g} GB/s "
        f"shared per node, DRAM to device {hardware.device_bytes_per_s / 1e9:g} GB/s per slot",
        "scale": f"real agents move 1/{SCALE} of the bytes at 1/{SCALE} of the speeds; time is real time",
        "torch": real_engine.CONDITIONS,
        "start": "every model in the DRAM of one node, no replica",
        "sim_": "the same placement functions over the same trace in memory, without processes",
    }


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the trace")
    parser.add_argument("--seeds", type=int, default=1, help="real runs per policy; 5 for the whole ablation")
    parser.add_argument("--sim-seeds", type=int, default=len(trace.SEEDS), help="simulated runs per policy")
    parser.add_argument("--slots", default="6,4", help="device slots per node, one setting each")
    parser.add_argument("--policies", default="random,queue,full", help=f"of {', '.join(WEIGHTS)}")
    parser.add_argument(
        "--no-torch", action="store_true", help="leave out the small run with the real engine"
    )
    parser.add_argument(
        "--simulate-only", action="store_true", help="no processes: seconds instead of minutes"
    )
    parser.add_argument("--save", action="store_true", help="write results/<date>-<commit>-cpu.json")
    args = parser.parse_args()
    plan = Plan(
        args.seconds,
        () if args.simulate_only else trace.SEEDS[: args.seeds],
        trace.SEEDS[: args.sim_seeds],
        [int(number) for number in args.slots.split(",")],
        args.policies.split(","),
        not (args.no_torch or args.simulate_only),
    )
    report = run(plan)
    report.print()
    if args.save:
        report.save(HERE / "results")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
