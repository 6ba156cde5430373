# SPDX-License-Identifier: Apache-2.0
"""How fast does a checkpoint come from disk into memory, and what does it cost? See README.md beside this file."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from benchmarks._harness import page_cache
from benchmarks._harness.line_process import LineProcess
from benchmarks._harness.report import ROOT, Report, machine
from benchmarks.load.checkpoint import FULL, SMALL, Checkpoint, make, make_tensorizer_file
from benchmarks.load.figures import AIMS, Samples, aims, figures
from benchmarks.load.ours import Task
from benchmarks.load.peers import PEERS, file_of
from serverlessllm.arena.scratch import scratch
from serverlessllm.clock import SystemClock
from serverlessllm.loader.tune.tuner import DiskTuner, DiskTuning

HERE = Path(__file__).resolve().parent
OURS = {
    "load_arena": ("arena", "never"),
    "load_arena_verified": ("arena", "always"),
    "load_fresh": ("fresh", "never"),
    "load_fresh_verified": ("fresh", "always"),
    "limit": ("limit", "never"),
}
"""Row → (way, verification)."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What is loaded, and how the disk is read."""

    home: Path
    full: Checkpoint
    small: Checkpoint
    tuning: DiskTuning

    def ours(self, way: str, verify: str) -> dict[str, float]:
        """One measurement in a new process, the file out of the page cache."""
        trial = self.tuning.best.trial
        task = Task(
            way=way,
            artifact=str(self.full.artifact),
            warm_up=str(self.small.artifact),
            home=str(self.home),
            num_threads=trial.num_threads,
            read_bytes=trial.read_bytes,
            verify=verify,
        )
        with LineProcess(HERE / "ours.py", [msgspec.json.encode(task).decode()]) as process:
            page_cache.drop(self.full.weights)
            self._back_memory()
            return process.hello | process.ask()

    def _back_memory(self) -> None:
        """Have the hypervisor back as much free memory as a load takes; it takes back what is free for seconds."""
        with scratch(int(1.1 * self.full.nbytes), huge=True):
            pass

    def peer(self, name: str) -> tuple[dict[str, float], dict[str, float]]:
        """A cold and a warm measurement in a new process."""
        path = file_of(name, self.full)
        arguments = [name, str(self.small.directory), str(self.full.directory)]
        with LineProcess(HERE / "peers.py", arguments) as process:
            page_cache.drop(path)
            self._back_memory()
            cold = process.ask()
            page_cache.fill(path)
            warm = process.ask()
        page_cache.drop(path)
        return cold, warm


def installed_peers() -> list[str]:
    """The rows that can run; the others are printed as what they are."""
    found: list[str] = []
    for name, (package, _) in PEERS.items():
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            print(f"peer {name}: not installed ({package}); pip install -c constraints.txt -e '.[bench]'")
            continue
        found.append(name)
    return found


def measure(bench: Bench, peers: list[str], rounds: int) -> Samples:
    """Every row once per round, in another order each time, so that drift of a shared machine meets all alike."""
    samples: Samples = {row: [] for row in OURS}
    samples |= {f"{kind}_{name}": [] for name in peers for kind in ("peer", "warm")}

    def run_ours(row: str) -> None:
        samples[row].append(bench.ours(*OURS[row]))

    def run_peer(name: str) -> None:
        cold, warm = bench.peer(name)
        samples[f"peer_{name}"].append(cold)
        samples[f"warm_{name}"].append(warm)

    work: list[tuple[Callable[[str], None], str]] = [(run_ours, row) for row in OURS]
    work += [(run_peer, name) for name in peers]
    for number in range(rounds):
        for run, name in random.Random(number).sample(work, len(work)):
            run(name)
        shown = "  ".join(f"{row} {values[-1]['seconds']:.2f}" for row, values in samples.items())
        print(f"round {number + 1}/{rounds}, seconds  {shown}", flush=True)
    return samples


def check_bytes(samples: Samples) -> None:
    """Everybody read the same. Raises: RuntimeError naming the rows that did not."""
    seen = {row: {value["checksum"] for value in values} for row, values in samples.items() if row != "limit"}
    if len(set().union(*seen.values())) != 1:
        raise RuntimeError(f"rows loaded different bytes: {seen}")


def prepare(home: Path, tune_s: float) -> Bench:
    """The checkpoint in all forms, and the disk measured as `sllm tune io` does."""
    home.mkdir(parents=True, exist_ok=True)
    print(f"checkpoint in {home} (made once, {4 * 2.9:.0f} GB) …", flush=True)
    full, small = make(home, FULL), make(home, SMALL)
    for checkpoint in (full, small):
        try:
            make_tensorizer_file(checkpoint)
        except ImportError:
            break  # said by `installed_peers`
    tuner = DiskTuner(home, seconds=tune_s, max_bytes=1 << 30, wants_huge_pages=True, clock=SystemClock())
    return Bench(home, full, small, tuner.run())


def conditions(bench: Bench, samples: Samples, peers: list[str]) -> dict[str, object]:
    """What the figures hold for."""
    trial = bench.tuning.best.trial
    packages = sorted({"serverlessllm", "torch", "blake3"} | {PEERS[name][0] for name in peers})
    return machine(tuple(packages)) | {
        "n": len(samples["limit"]),
        "weights_bytes": bench.full.nbytes,
        "num_tensors": bench.full.num_tensors,
        "io": f"{trial.method}, {trial.num_threads} threads × {trial.read_bytes >> 20} MiB (measured before)",
        "arena_pages": "2 MiB" if samples["load_arena"][-1]["huge_pages"] else "4 KiB",
        "limit_pages_bytes": sorted({value["page_bytes"] for value in samples["limit"]}),
        "not_installed": sorted(set(PEERS) - set(peers)),
        "page_cache": "each file dropped (fadvise, checked with mincore) before it is loaded cold; filled for warm",
    }


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (n)")
    parser.add_argument(
        "--tune-seconds", type=float, default=20.0, help="for finding how the disk is read best"
    )
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), help="only these")
    parser.add_argument("--save", action="store_true", help="write results/<date>-<commit>-cpu.json")
    args = parser.parse_args()
    peers = [name for name in installed_peers() if args.peers is None or name in args.peers]
    bench = prepare(ROOT / ".demo" / "load", args.tune_seconds)
    samples = measure(bench, peers, args.rounds)
    check_bytes(samples)
    found = figures(samples, bench.full.nbytes)
    report = Report("load", conditions(bench, samples, peers), found, AIMS | aims(peers))
    report.print()
    if args.save:
        report.save(HERE / "results")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
