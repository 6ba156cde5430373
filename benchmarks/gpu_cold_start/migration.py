# SPDX-License-Identifier: Apache-2.0
"""What a client sees when its answer moves between two agents that share one GPU. See README.md beside this file.

python -m benchmarks.gpu_cold_start.migration [--dry-run]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path

import torch

from benchmarks._harness.report import ROOT, Aim, Report, machine
from benchmarks._harness.stats import median, percentile
from benchmarks._harness.two_nodes import Nodes
from benchmarks.gpu_cold_start.random_checkpoint import SEVEN_B, SMALL, write_checkpoint
from benchmarks.migrate.run import MODEL, Case, Sample, figures, measure, warm
from serverlessllm.errors import SllmError

PERCENTS = (20, 50, 80)
AIMS = {"p99": Aim("all_pause_p99_ms", "<", 200.0)}


def cases(context_tokens: list[int]) -> list[Case]:
    """Every completion, computed anew and copied, to an idle destination."""
    return [
        Case(tokens, percent, mode, False)
        for tokens in context_tokens
        for percent in PERCENTS
        for mode in ("recompute", "copy")
    ]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=ROOT / ".demo" / "gpu-moves", help="where all lies")
    parser.add_argument("--rounds", type=int, default=3, help="moves of each kind")
    parser.add_argument("--contexts", type=int, nargs="+", default=[100, 500, 1000, 2000])
    parser.add_argument("--arena", default="16GiB", help="DRAM of each agent")
    parser.add_argument("--save", type=Path, help="also write the JSON object to this file")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with a small model")
    return parser.parse_args()


def moves(args: argparse.Namespace, device: str) -> list[Sample]:
    """Two agents, one model on both, one stream after the other. One that stays where it was is told and counted."""
    source = args.home / "hf"
    write_checkpoint(source, SMALL if args.dry_run else SEVEN_B, device)
    flags = {
        "arena_budget_bytes": "2GiB" if args.dry_run else args.arena,
        "engine_device": device,
        "engine_max_num_seqs": "4",
        "engine_max_model_len_tokens": "1024" if args.dry_run else "4096",
    }
    dice, samples = random.Random(1), list[Sample]()
    with Nodes(args.home, 2, store="sqlite", **flags) as nodes:
        nodes.client.add_model(MODEL, str(source), wait=True)
        warm(nodes, dice)
        for _ in range(args.rounds):
            for case in cases(args.contexts):
                try:
                    sample = measure(nodes, case, dice)
                except (RuntimeError, SllmError) as error:
                    print(json.dumps({"case": case.name, "not_moved": str(error)}), flush=True)
                    continue
                samples.append(sample)
                told = {"pause_ms": round(sample.pause_ms, 1), "itl_ms": round(sample.itl_ms, 1)}
                print(json.dumps({"case": case.name, **told}), flush=True)
    return samples


def main() -> int:
    """Measure, print, save."""
    args = arguments()
    samples = moves(args, "cpu" if args.dry_run else "cuda")
    conditions = machine(("torch",)) | {
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "n": len(samples),
        "rounds": args.rounds,
        "contexts": args.contexts,
        "agents": "two, on one device; SQLite between the processes",
    }
    pauses_ms = [sample.pause_ms for sample in samples]
    found = figures(samples)
    found |= {"all_pause_p50_ms": median(pauses_ms), "all_pause_p99_ms": percentile(pauses_ms, 99)}
    found["num_not_moved"] = float(args.rounds * len(cases(args.contexts)) - len(samples))
    report = Report("gpu_migration", conditions, found, AIMS)
    report.print()
    if args.save is not None:
        args.save.write_text(json.dumps(report.as_dict(), indent=1, sort_keys=True) + "\n")
    shutil.rmtree(args.home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
