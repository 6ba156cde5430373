# SPDX-License-Identifier: Apache-2.0
"""How long until the first token of a 7B model on a GPU that sleeps? See README.md beside this file."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks._harness import page_cache, timed_stream
from benchmarks._harness.disk_limit import DiskLimit
from benchmarks._harness.report import ROOT, Aim, Report, machine
from benchmarks._harness.stats import median, percentile
from benchmarks.gpu_cold_start.random_checkpoint import SEVEN_B, SMALL, Shape, write_checkpoint
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client

HERE = Path(__file__).resolve().parent
BIG, OTHER = "random-7b", "random-small"
PROMPT = "What is the capital of France?"
SLOT_TIMEOUT_S = 120.0
SETTLE_S = 2.5
PHASES = ("queue", "place", "fetch", "read", "bind", "prefill", "first_token")


@dataclass(slots=True)
class Samples:
    """Milliseconds by row; each is printed as it comes, so that a run that is cut off has said something."""

    rows: dict[str, list[float]] = field(default_factory=dict)

    def add(self, row: str, ms: float) -> None:
        self.rows.setdefault(row, []).append(ms)
        print(json.dumps({"row": row, "ms": round(ms, 2)}), flush=True)

    def figures(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for row, values in self.rows.items():
            found[f"{row}_median_ms"] = median(values)
            found[f"{row}_p95_ms"] = percentile(values, 95)
        return found


class Platform:
    """Our server on this machine's device, asked as a client asks."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.client = Client(server.url)

    def wait_for_slot(self) -> None:
        """Until a primed worker waits: what is measured is a start, not the refilling of the pool."""
        time.sleep(SETTLE_S)  # until the pool has noticed that it lacks one
        deadline = time.monotonic() + SLOT_TIMEOUT_S
        while time.monotonic() < deadline:
            status = self.client.agents()[0].status
            if status is not None and status.slots.get("torch.primed", 0) > 0:
                return
            time.sleep(0.1)
        raise TimeoutError(f"no slot within {SLOT_TIMEOUT_S} s; see {self.server.log_path}")

    def ask(self, model: str, max_tokens: int) -> tuple[float, float, dict[str, float]]:
        """Milliseconds to the first token and to the last byte, and the request's phases."""
        body = {"model": model, "prompt": PROMPT, "max_tokens": max_tokens, "temperature": 0}
        answer = timed_stream.ask(self.server.url, "/v1/completions", body)
        view = self.client.request(answer.request_id).request
        return answer.first_ms, answer.whole_ms, dict(view.phases)


def add_model(platform: Platform, home: Path, name: str, shape: Shape, device: str) -> Artifact:
    """Write a random checkpoint, convert it as a user would, and delete what it was made from where it is small."""
    source = home / f"hf-{name}"
    if not (source / "model.safetensors.index.json").exists():
        write_checkpoint(source, shape, device)
    platform.client.add_model(name, str(source), wait=True)
    revision = str(platform.client.get_model(name).revision)
    return Artifact.open(platform.server.data_dir / "artifacts" / revision)


def measure(platform: Platform, weights: Path, samples: Samples, args: argparse.Namespace) -> None:
    """Starts from NVMe, from DRAM and hot, and whole short answers from DRAM."""
    phases: dict[str, list[float]] = {}
    for _ in range(args.nvme_rounds):
        platform.client.stop_model(BIG, drop_bytes=True)
        page_cache.drop(weights)
        platform.wait_for_slot()
        samples.add("ttft_nvme", platform.ask(BIG, 1)[0])
    for number in range(args.dram_rounds):
        platform.client.stop_model(BIG)
        platform.wait_for_slot()
        first_ms, whole_ms, road = platform.ask(BIG, 16)
        samples.add("ttft_dram", first_ms)
        samples.add("answer16_dram", whole_ms)
        for phase in PHASES:
            phases.setdefault(phase, []).append(float(road.get(phase, 0.0)))
        if number % 2 == 0:
            samples.add("ttft_hot", platform.ask(BIG, 1)[0])
    for phase, values in phases.items():
        samples.rows[f"dram_phase_{phase}"] = values


def cycles(platform: Platform, num_cycles: int) -> dict[str, float]:
    """Load and unload two models in turn; device memory that is gone afterwards."""
    platform.client.stop_model(BIG)
    platform.wait_for_slot()
    before = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    for number in range(num_cycles):
        model = (BIG, OTHER)[number % 2]
        platform.ask(model, 2)
        platform.client.stop_model(model)
        platform.wait_for_slot()
    time.sleep(1.0)
    after = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    status = platform.client.agents()[0].status
    pinned = sum(region.is_pinned for region in status.regions) if status is not None else 0
    return {"leaked_device_mib": (before - after) / 2**20, "pinned_regions_after_cycles": float(pinned)}


def child_figures(module: str, *arguments: str) -> dict[str, float]:
    """What one of our scripts prints as its last line, run in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.gpu_cold_start.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-2000:]}")
    line = done.stdout.splitlines()[-1]
    print(line, flush=True)
    found: dict[str, float] = json.loads(line)
    return found


def transformers_ms(directory: Path, device: str) -> tuple[float, float]:
    """A fresh process of the peer: (from its start, from its `from_pretrained`) to the first token."""
    started = time.perf_counter()
    command = [sys.executable, str(HERE / "transformers_first_token.py"), str(directory), device, PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (time.perf_counter() - started) * 1e3, json.loads(done.stdout.splitlines()[-1])[
        "load_and_answer_ms"
    ]


def derived(found: dict[str, float], inside: dict[str, float], nbytes: int) -> dict[str, float]:
    """Every figure also as a share of its ceiling."""
    found |= inside
    if "link_gbps" in inside:
        bound_ms = nbytes / inside["link_gbps"] / 1e6
        found["dram_bound_ms"] = bound_ms
        found["dram_over_bound_ratio"] = found["ttft_dram_median_ms"] / bound_ms
        found["copy_over_bound_ratio"] = inside["copy_ms"] / bound_ms
    found["nvme_bound_ms"] = nbytes / found["disk_gbps"] / 1e6
    found["nvme_over_bound_ratio"] = found["ttft_nvme_median_ms"] / found["nvme_bound_ms"]
    if "transformers_fresh_median_ms" in found:
        found["transformers_fresh_over_dram_ratio"] = (
            found["transformers_fresh_median_ms"] / found["ttft_dram_median_ms"]
        )
    return found


AIMS = {
    "dram": Aim("dram_over_bound_ratio", "<=", 1.4),
    "dram_p50": Aim("ttft_dram_median_ms", "<=", 500.0),
    "nvme": Aim("nvme_over_bound_ratio", "<=", 1.2),
    "same_answers": Aim("gpu_wrong_ids", "<=", 0.0),
    "no_leak": Aim("leaked_device_mib", "<=", 64.0),
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=ROOT / ".demo" / "gpu", help="where models and data lie")
    parser.add_argument("--arena", default="32GiB", help="DRAM that slots page-lock")
    parser.add_argument("--nvme-rounds", type=int, default=5)
    parser.add_argument("--dram-rounds", type=int, default=20)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--peer-rounds", type=int, default=2)
    parser.add_argument("--save", type=Path, help="also write the JSON object to this file")
    parser.add_argument(
        "--dry-run", action="store_true", help="on the CPU, with a small model: shows that the script works"
    )
    return parser.parse_args()


def main() -> int:
    """Measure, print, save."""
    args = arguments()
    device = "cpu" if args.dry_run else "cuda"
    flags = {
        "arena-budget-bytes": "2GiB" if args.dry_run else args.arena,
        "engine-device": device,
        "engine-max-num-seqs": "4",
        "engine-max-model-len-tokens": "1024",
    }
    samples = Samples()
    found: dict[str, float] = {}
    with ExitStack() as stack:
        started = time.perf_counter()
        platform = Platform(stack.enter_context(LocalServer(args.home / "data", flags=flags)))
        artifact = add_model(platform, args.home, BIG, SMALL if args.dry_run else SEVEN_B, device)
        other = Shape(256, 704, 4, 4, 4)
        small = add_model(platform, args.home, OTHER, other, device)
        weights = artifact.directory / artifact.index.shards[0].encodings[0].file
        nbytes = artifact.index.weights_nbytes
        print(
            json.dumps({"prepared_s": round(time.perf_counter() - started, 1), "weights_bytes": nbytes}),
            flush=True,
        )
        limit = DiskLimit(weights)
        found["disk_gbps"] = nbytes / median([limit.measure_s() for _ in range(3)]) / 1e9
        del limit
        platform.wait_for_slot()
        platform.ask(BIG, 1)
        measure(platform, weights, samples, args)
        found |= cycles(platform, args.cycles)
    inside = child_figures("same_answers", str(small.directory))
    if not args.dry_run:
        inside |= child_figures("in_process", str(artifact.directory), "7")
    for _ in range(args.peer_rounds):
        for file in (args.home / f"hf-{BIG}").glob("*.safetensors"):
            page_cache.drop(file)
        fresh_ms, load_ms = transformers_ms(args.home / f"hf-{BIG}", device)
        samples.add("transformers_fresh", fresh_ms)
        samples.add("transformers_load", load_ms)
    found |= samples.figures()
    found = derived(found, inside, nbytes)
    conditions = machine(("torch", "transformers")) | {
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "n": {row: len(values) for row, values in samples.rows.items()},
        "weights_bytes": nbytes,
        "page_cache": "weights dropped (fadvise, checked with mincore) before nvme and transformers",
    }
    aims = {name: aim for name, aim in AIMS.items() if aim.figure in found}
    report = Report("gpu_cold_start", conditions, found, aims)
    report.print()
    if args.save is not None:
        args.save.write_text(json.dumps(report.as_dict(), indent=1, sort_keys=True) + "\n")
    if args.dry_run:
        shutil.rmtree(args.home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
