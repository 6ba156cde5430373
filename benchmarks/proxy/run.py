# SPDX-License-Identifier: Apache-2.0
"""What does a request, and a chunk, cost on its way through a front? See README.md beside this file."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from benchmarks._harness.paired import paired_ratio
from benchmarks._harness.report import Aim, Report, machine
from benchmarks._harness.stats import median, percentile
from benchmarks.proxy import load, subjects
from benchmarks.proxy.cpu_time import cpu_ns
from benchmarks.proxy.subjects import Subject

HERE = Path(__file__).resolve().parent
DIRECT, OURS, PEER = "direct", "ours", "sglang_router"
NUM_STREAMS, GAP_MS = 512, 20
CONNECTIONS = 32
SLOW = ("litellm",)
"""Gets a twentieth of the load: its figures are per request and per chunk all the same."""

AIMS = {
    "cpu per request": Aim("ours_over_sglang_router_cpu_per_request_ratio", "<=", 1.0),
    "cpu per chunk": Aim("ours_over_sglang_router_cpu_per_chunk_ratio", "<=", 1.2),
    "added TTFT": Aim("ours_added_ttft_ms", "<=", 0.5),
    "512 streams at 50 tokens/s on one core": Aim("ours_delivered_share_ratio", ">=", 0.99),
}


@dataclass
class Rounds:
    """One value per round."""

    cpu_per_request_us: list[float] = field(default_factory=list)
    cpu_per_1000_chunks_ms: list[float] = field(default_factory=list)
    ttft_us: list[float] = field(default_factory=list)
    late_us: list[float] = field(default_factory=list)
    late_p99_us: list[float] = field(default_factory=list)
    delivered_share: list[float] = field(default_factory=list)
    busy_share: list[float] = field(default_factory=list)


def spent_ns(subject: Subject) -> int:
    """CPU that the subject has used so far."""
    return 0 if subject.pid is None else cpu_ns(subject.pid)


async def requests(subject: Subject, rounds: Rounds, count: int) -> None:
    """Many short answers over 32 connections: what a request costs."""
    before = spent_ns(subject)
    seen = await load.drive(
        subject.target,
        num_connections=CONNECTIONS,
        requests_each=max(1, count // CONNECTIONS),
        num_chunks=1,
        gap_ms=0,
    )
    rounds.cpu_per_request_us.append((spent_ns(subject) - before) / 1e3 / seen.num_requests)


async def one_by_one(subject: Subject, rounds: Rounds, count: int) -> None:
    """One request at a time: what the first token waits."""
    seen = await load.drive(subject.target, num_connections=1, requests_each=count, num_chunks=1, gap_ms=0)
    rounds.ttft_us.append(median(seen.ttft_us))


async def streams(subject: Subject, rounds: Rounds, num_streams: int, seconds: float) -> None:
    """Many streams at 50 tokens/s: what a chunk costs, and how late it is."""
    num_chunks = int(seconds * 1e3 / GAP_MS)
    before = spent_ns(subject)
    seen = await load.drive(
        subject.target, num_connections=num_streams, requests_each=1, num_chunks=num_chunks, gap_ms=GAP_MS
    )
    spent = spent_ns(subject) - before
    rounds.cpu_per_1000_chunks_ms.append(spent / 1e3 / seen.num_chunks)
    rounds.late_us.append(median(seen.late_us))
    rounds.late_p99_us.append(percentile(seen.late_us, 99))
    rounds.busy_share.append(spent / 1e9 / seen.wall_s)
    planned_s = (num_chunks - 1) * GAP_MS / 1e3 + num_streams / 32 * 0.02
    rounds.delivered_share.append(min(1.0, planned_s / seen.wall_s))


async def measure(found: list[Subject], args: argparse.Namespace) -> dict[str, Rounds]:
    """All rounds, the subjects of each one after the other."""
    every = {subject.name: Rounds() for subject in found}
    for subject in found:  # connections, caches, branch predictors
        await load.drive(subject.target, num_connections=8, requests_each=20, num_chunks=2, gap_ms=1)
    for number in range(args.rounds):
        for subject in found[number % len(found) :] + found[: number % len(found)]:
            rounds, share = every[subject.name], 20 if subject.name in SLOW else 1
            await requests(subject, rounds, args.requests // share)
            await one_by_one(subject, rounds, args.single // share)
            await streams(subject, rounds, args.streams // share, args.seconds)
            print(
                f"round {number + 1}/{args.rounds} {subject.name:14} "
                f"{rounds.cpu_per_request_us[-1]:8.1f} us/request "
                f"{rounds.cpu_per_1000_chunks_ms[-1]:8.2f} ms/1000 chunks  TTFT {rounds.ttft_us[-1]:7.0f} us  "
                f"late {rounds.late_us[-1]:6.0f} us (p99 {rounds.late_p99_us[-1]:.0f})  "
                f"delivered {rounds.delivered_share[-1]:.3f}",
                flush=True,
            )
    return every


def figures(every: dict[str, Rounds]) -> dict[str, float]:
    """Medians over the rounds; differences and ratios of the same round."""
    found: dict[str, float] = {}
    bare = every[DIRECT]
    for name, rounds in every.items():
        if name == DIRECT:
            found["direct_ttft_ms"] = median(rounds.ttft_us) / 1e3
            found["direct_chunk_latency_ms"] = median(rounds.late_us) / 1e3
            continue
        found[f"{name}_cpu_per_request_us"] = median(rounds.cpu_per_request_us)
        found[f"{name}_cpu_per_1000_chunks_ms"] = median(rounds.cpu_per_1000_chunks_ms)
        found[f"{name}_added_ttft_ms"] = _added_ms(rounds.ttft_us, bare.ttft_us)
        found[f"{name}_added_chunk_latency_ms"] = _added_ms(rounds.late_us, bare.late_us)
        found[f"{name}_added_chunk_latency_p99_ms"] = _added_ms(rounds.late_p99_us, bare.late_p99_us)
        found[f"{name}_delivered_share_ratio"] = median(rounds.delivered_share)
        found[f"{name}_busy_share_ratio"] = median(rounds.busy_share)
    mine = every[OURS]
    for name, rounds in every.items():
        if name in (DIRECT, OURS):
            continue
        per_request = paired_ratio(mine.cpu_per_request_us, rounds.cpu_per_request_us)
        per_chunk = paired_ratio(mine.cpu_per_1000_chunks_ms, rounds.cpu_per_1000_chunks_ms)
        found |= per_request.as_figures(f"ours_over_{name}_cpu_per_request")
        found |= per_chunk.as_figures(f"ours_over_{name}_cpu_per_chunk")
    return found


def _added_ms(through: Sequence[float], bare: Sequence[float]) -> float:
    return median([one - other for one, other in zip(through, bare, strict=True)]) / 1e3


def main(arguments: Sequence[str]) -> int:
    """Measure, print the report; save it if asked to."""
    parser = argparse.ArgumentParser(prog="sllm bench proxy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=6400, help="short requests per subject and round")
    parser.add_argument("--single", type=int, default=400, help="requests one by one per subject and round")
    parser.add_argument("--streams", type=int, default=NUM_STREAMS, help="streams at once")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long the streams last")
    parser.add_argument("--subjects", default="", help="comma-separated; all that are installed otherwise")
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    args = parser.parse_args(arguments)
    here = subjects.installed()
    names = args.subjects.split(",") if args.subjects else [name for name, has in here.items() if has]
    names = list(dict.fromkeys([DIRECT, OURS, *names]))
    conditions = machine(("aiohttp", "uvloop", "httptools", "msgspec"))
    with ExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory(prefix="sllm-proxy-")))
        address = stack.enter_context(subjects.backend(home))
        found = subjects.start(names, address, home, stack)
        os.sched_setaffinity(0, subjects.cores()[1])
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            every = runner.run(measure(found, args))
    conditions |= {"n": args.rounds, "streams": args.streams, "gap_ms": GAP_MS, "subjects": names}
    conditions["left_out"] = [name for name, has in here.items() if not has]
    values = figures(every)
    aims = {name: aim for name, aim in AIMS.items() if aim.figure in values}
    report = Report(
        "What does a request, and a chunk, cost on its way through a front?", conditions, values, aims
    )
    report.print()
    if args.save:
        print(f"saved {report.save(HERE / 'results')}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
