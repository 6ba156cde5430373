# SPDX-License-Identifier: Apache-2.0
"""How many tokens a second, for one caller and for many? See README.md beside this file."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx
import psutil

from benchmarks._harness.hf_export import export
from benchmarks._harness.report import ROOT, Aim, Report, machine
from benchmarks._harness.stats import median
from benchmarks.engine import prefix, servers
from benchmarks.engine.servers import Server
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client

HERE = Path(__file__).resolve().parent
MODEL = "smollm2-135m-instruct"
BATCHES = (1, 8, 32)
DTYPE: Final = "bfloat16"
TOPICS = ("rivers", "bridges", "bread", "maps", "clocks", "glass", "wool", "ships")
TIMEOUT_S = 600.0

Sample = tuple[float, float]
"""Tokens per second, tokens per CPU-second."""


def prompt(serial: int) -> str:
    """Some 30 tokens that begin differently each time: no prefix is shared, nothing was seen before."""
    topic = TOPICS[serial % len(TOPICS)]
    return f"{serial}. A letter to a friend about the history of {topic}, and what we may learn from it today.\n\n"


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and all below it."""
    total = 0.0
    for process in (root := psutil.Process(pid), *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def measure(server: Server, num: int, max_tokens: int, first_serial: int, client: httpx.Client) -> Sample:
    """`num` callers at once, from the first byte sent to the last one received, prefill included."""
    prompts = [prompt(first_serial + index) for index in range(num)]
    common = {"model": server.model, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    bodies = (
        [common | {"prompt": prompts}] if server.takes_lists else [common | {"prompt": p} for p in prompts]
    )

    def ask(body: dict[str, object]) -> int:
        response = client.post(server.url, json=body)
        response.raise_for_status()
        return int(response.json()["usage"]["completion_tokens"])

    cpu_before_s, started_s = cpu_s(server.pid), time.perf_counter()
    with ThreadPoolExecutor(len(bodies)) as callers:
        num_tokens = sum(callers.map(ask, bodies))
    elapsed_s, used_s = time.perf_counter() - started_s, cpu_s(server.pid) - cpu_before_s
    if num_tokens != num * max_tokens:
        raise RuntimeError(f"{server.name} gave {num_tokens} tokens, not {num * max_tokens}")
    return num_tokens / elapsed_s, num_tokens / max(used_s, 1e-9)


def measure_all(measured: list[Server], rounds: int, max_tokens: int) -> dict[tuple[str, int], list[Sample]]:
    """Interleaved: in each round every server has its turn at every batch. A first turn warms and is not counted."""
    samples: dict[tuple[str, int], list[Sample]] = {}
    serial = 0
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(timeout=TIMEOUT_S, limits=limits, trust_env=False) as client:
        for server in measured:
            for num in BATCHES:
                measure(server, num, 8, serial, client)
                serial += num
        for number in range(rounds):
            for num in BATCHES:
                for server in measured:
                    sample = measure(server, num, max_tokens, serial, client)
                    serial += num
                    samples.setdefault((server.name, num), []).append(sample)
            shown = "  ".join(f"{name} b{num} {found[-1][0]:.1f}" for (name, num), found in samples.items())
            print(f"round {number + 1}/{rounds}  {shown}", flush=True)
    return samples


def figures(samples: dict[tuple[str, int], list[Sample]]) -> dict[str, float]:
    """The issue's keys, and the ratios that its aims are about: medians."""
    found: dict[str, float] = {}
    for (name, num), values in samples.items():
        prefix = "" if name == "ours" else f"{name}_"
        found[f"{prefix}tps_b{num}"] = median([tps for tps, _ in values])
        found[f"{prefix}tokens_per_cpu_s_b{num}"] = median([per_cpu for _, per_cpu in values])
    for name in dict.fromkeys(name for name, _ in samples if name != "ours"):
        for num in BATCHES:
            found[f"over_{name}_b{num}_ratio"] = found[f"tps_b{num}"] / found[f"{name}_tps_b{num}"]
    return found


def aims(names: set[str]) -> dict[str, Aim]:
    """The issue's, of the peers that ran."""
    wanted = {
        "batch_8_against_transformers": Aim("over_transformers_b8_ratio", ">=", 1.25),
        "repeated_prefix": Aim("prefix_1000_again_over_first_ratio", "<=", 0.15),
    }
    if "vllm" in names:
        wanted["batch_8_against_vllm"] = Aim("over_vllm_b8_ratio", ">=", 0.9)
        wanted["batch_1_against_vllm"] = Aim("over_vllm_b1_ratio", ">=", 0.9)
    return wanted


def prepare(stack: ExitStack, num_threads: int, *, is_compiled: bool, with_vllm: bool) -> list[Server]:
    """Ours and every peer that is here, on the same bytes, dtype and threads."""
    home = ROOT / ".demo"
    fetch = [sys.executable, str(ROOT / "scripts" / "fetch_demo_model.py"), str(home / "model")]
    subprocess.run(fetch, check=True)
    flags = {"engine-dtype": DTYPE, "engine-max-num-seqs": "32", "engine-threads": str(num_threads)}
    server = stack.enter_context(LocalServer(home / "bench", flags=flags))
    client = Client(server.url)
    if MODEL not in [model.name for model in client.models()]:
        client.add_model(MODEL, str(next((home / "model").glob("*.gguf"))), dtype=DTYPE, wait=True)
    revision = client.get_model(MODEL).revision
    hf_dir = export(Artifact.open(home / "bench" / "artifacts" / str(revision)).directory, home / "hf")
    measured = [servers.ours(server, MODEL)]
    measured.append(stack.enter_context(servers.transformers(hf_dir, DTYPE, num_threads)))
    if with_vllm and servers.has_vllm():
        started = servers.vllm(hf_dir, DTYPE, num_threads, is_compiled=is_compiled)
        measured.append(stack.enter_context(started))
    return measured


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (n)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each answer")
    parser.add_argument("--no-vllm", action="store_true", help="leave vLLM out even if it is built")
    parser.add_argument("--vllm-eager", action="store_true", help="start vLLM without compiling")
    parser.add_argument("--save", action="store_true", help="write results/<date>-<commit>-cpu.json")
    args = parser.parse_args()
    num_threads = len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        measured = prepare(stack, num_threads, is_compiled=not args.vllm_eager, with_vllm=not args.no_vllm)
        samples = measure_all(measured, args.rounds, args.tokens)
        url = measured[0].url.removesuffix("/v1/completions")
        prefixes = [prefix.measure(url, MODEL, serial) for serial in range(args.rounds)]
    names = {server.name for server in measured}
    conditions = machine(("torch", "transformers", "serverlessllm"))
    conditions |= {
        "n": args.rounds,
        "model": MODEL,
        "dtype": DTYPE,
        "threads": num_threads,
        "new_tokens": args.tokens,
        "prompt": "about 30 tokens, none seen before",
        "timer": "first byte sent to last byte received over HTTP, prefill included",
        "measured": sorted(names),
        "vllm_mode": ("eager" if args.vllm_eager else "compiled") if "vllm" in names else "not measured",
    }
    report = Report("engine", conditions, figures(samples) | prefix.figures(prefixes), aims(names))
    report.print()
    if args.save:
        report.save(HERE / "results")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
