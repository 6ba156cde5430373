# SPDX-License-Identifier: Apache-2.0
"""How long until the first token of a model that sleeps? See README.md beside this file."""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks._harness import page_cache, timed_stream
from benchmarks._harness.disk_limit import DiskLimit
from benchmarks._harness.hf_export import export
from benchmarks._harness.line_process import QUIET_ENV, LineProcess
from benchmarks._harness.report import ROOT, Aim, Report, machine
from benchmarks._harness.stats import median, percentile
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client

HERE = Path(__file__).resolve().parent
MODEL = "smollm2-135m-instruct"
SYSTEM = "Case {:03d}. You are a helpful assistant, and your answers are short."
QUESTION = "What is the capital of France?"
SETTLE_S = 1.5
"""Between measurements: the pool primes its next slot, which must not compete with the request measured."""

RESPONSE_TOKENS = 16
HOT_REPEATS = 3
"""Hot and bare alternate, several times a round: their difference is small against the machine's drift."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: our server, the peers' directory, the model's bytes on disk."""

    server: LocalServer
    client: Client
    artifact: Artifact
    hf_dir: Path
    dtype: str

    @property
    def weights(self) -> Path:
        return self.artifact.directory / self.artifact.index.shards[0].encodings[0].file


def messages(case: int) -> list[dict[str, str]]:
    """A chat of always as many tokens, which begins differently for each case: no prefix of it is cached."""
    return [{"role": "system", "content": SYSTEM.format(case)}, {"role": "user", "content": QUESTION}]


def ttft_ms(url: str, case: int) -> float:
    """Milliseconds from connecting to the first streamed token, as a client sees it."""
    return ask(url, case, 4)[0]


def ask(url: str, case: int, max_tokens: int) -> tuple[float, float]:
    """Milliseconds from connecting to the first streamed token, and to the end of the answer."""
    body = {"model": MODEL, "messages": messages(case), "max_tokens": max_tokens, "temperature": 0}
    body["ignore_eos"] = True
    answer = timed_stream.ask(url, "/v1/chat/completions", body)
    return answer.first_ms, answer.whole_ms


def fresh_process_ms(subject: Subject) -> float:
    """A fresh Python that imports transformers, loads and answers: from its start to its first token."""
    page_cache.drop(subject.hf_dir / "model.safetensors")
    command = [sys.executable, str(HERE / "transformers_start.py"), str(subject.hf_dir), subject.dtype]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, json.dumps(messages(0)), "--once"], stdout=subprocess.PIPE, env=QUIET_ENV
    )
    line = process.stdout.readline() if process.stdout else b""
    elapsed_ms = (time.perf_counter() - started) * 1000
    process.communicate()
    if not line:
        raise RuntimeError("the transformers process failed")
    return elapsed_ms


def measure(subject: Subject, rounds: int, prompt_ids: list[int]) -> dict[str, list[float]]:
    """`rounds` interleaved rounds of every row."""
    rows = ("nvme", "dram", "response", "hot", "repeated", "limit_s", "bare", "imported", "fresh")
    samples: dict[str, list[float]] = {row: [] for row in rows}
    url, client, cases = subject.server.url, subject.client, itertools.count(1)
    limit = DiskLimit(subject.weights)
    peer = [str(subject.hf_dir), subject.dtype, json.dumps(messages(0))]
    bare_args = [str(subject.artifact.directory), subject.dtype, json.dumps(prompt_ids)]
    with (
        LineProcess(HERE / "transformers_start.py", peer) as imported,
        LineProcess(HERE / "bare_prefill.py", bare_args) as bare,
    ):
        for number in range(rounds):
            client.stop_model(MODEL, drop_bytes=True)
            page_cache.drop(subject.weights)
            time.sleep(SETTLE_S)
            samples["nvme"].append(ttft_ms(url, next(cases)))
            client.stop_model(MODEL)
            time.sleep(SETTLE_S)
            dram_ms, response_ms = ask(url, next(cases), RESPONSE_TOKENS)
            samples["dram"].append(dram_ms)
            samples["response"].append(response_ms)
            time.sleep(SETTLE_S)
            for _ in range(HOT_REPEATS):
                case = next(cases)
                samples["hot"].append(ttft_ms(url, case))
                samples["repeated"].append(ttft_ms(url, case))
                samples["bare"].append(bare.ask()["ms"])
            samples["limit_s"].append(limit.measure_s())
            page_cache.drop(subject.hf_dir / "model.safetensors")
            samples["imported"].append(imported.ask()["ms"])
            samples["fresh"].append(fresh_process_ms(subject))
            shown = "  ".join(f"{row} {values[-1]:.1f}" for row, values in samples.items())
            print(f"round {number + 1}/{rounds}  {shown}", flush=True)
    return samples


def figures(samples: dict[str, list[float]], nbytes: int) -> dict[str, float]:
    """The issue's keys, and the ratios that its aims are about."""
    found: dict[str, float] = {}
    for row in ("nvme", "dram", "hot"):
        found[f"ttft_{row}_median_ms"] = median(samples[row])
        found[f"ttft_{row}_p95_ms"] = percentile(samples[row], 95)
    found["ttft_hot_repeated_median_ms"] = median(samples["repeated"])
    found["prefill_bare_ms"] = median(samples["bare"])
    limit_s = median(samples["limit_s"])
    found["limit_gbps"] = nbytes / limit_s / 1e9
    found["bound_nvme_ms"] = limit_s * 1000 + found["prefill_bare_ms"]
    found["transformers_fresh_median_ms"] = median(samples["fresh"])
    found["transformers_imported_median_ms"] = median(samples["imported"])
    found["hot_minus_1_15_bare_ms"] = found["ttft_hot_median_ms"] - 1.15 * found["prefill_bare_ms"]
    found["dram_minus_hot_ms"] = found["ttft_dram_median_ms"] - found["ttft_hot_median_ms"]
    found["dram_p95_minus_hot_ms"] = found["ttft_dram_p95_ms"] - found["ttft_hot_median_ms"]
    found["response_dram_16_tokens_median_ms"] = median(samples["response"])
    found["nvme_over_bound_ratio"] = found["ttft_nvme_median_ms"] / found["bound_nvme_ms"]
    fresh = found["transformers_fresh_median_ms"]
    found["fresh_over_dram_ratio"] = fresh / found["ttft_dram_median_ms"]
    found["fresh_over_nvme_ratio"] = fresh / found["ttft_nvme_median_ms"]
    return found


AIMS = {
    "hot": Aim("hot_minus_1_15_bare_ms", "<=", 5.0),
    "dram": Aim("dram_minus_hot_ms", "<=", 30.0),
    "dram_must": Aim("dram_minus_hot_ms", "<=", 50.0),
    "dram_p95": Aim("dram_p95_minus_hot_ms", "<=", 80.0),
    "dram_response": Aim("response_dram_16_tokens_median_ms", "<", 1000.0),
    "nvme": Aim("nvme_over_bound_ratio", "<=", 1.8),
    "dram_against_fresh": Aim("fresh_over_dram_ratio", ">=", 20.0),
    "nvme_against_fresh": Aim("fresh_over_nvme_ratio", ">=", 10.0),
}


def prepare(stack: ExitStack) -> Subject:
    """Start a platform with the demo model, and export the same bytes for the peers."""
    home = ROOT / ".demo"
    fetch = [sys.executable, str(ROOT / "scripts" / "fetch_demo_model.py"), str(home / "model")]
    subprocess.run(fetch, check=True)
    server = stack.enter_context(LocalServer(home / "bench"))
    client = Client(server.url)
    names = [model.name for model in client.models()]
    if MODEL not in names:
        client.add_model(MODEL, str(next((home / "model").glob("*.gguf"))), wait=True)
    revision = client.get_model(MODEL).revision
    artifact = Artifact.open(home / "bench" / "artifacts" / str(revision))
    ttft_ms(server.url, 0)
    return Subject(server, client, artifact, export(artifact.directory, home / "hf"), compute_dtype(client))


def compute_dtype(client: Client) -> str:
    """What our engine computes in; the peers get the same."""
    while True:
        status = client.agents()[0].status
        if status is not None and "torch" in status.dtypes:
            return status.dtypes["torch"]
        time.sleep(0.1)


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds (n)")
    parser.add_argument("--save", action="store_true", help="write results/<date>-<commit>-cpu.json")
    args = parser.parse_args()
    with ExitStack() as stack:
        subject = prepare(stack)
        prompt_ids = prompt_ids_of(subject)
        samples = measure(subject, args.rounds, prompt_ids)
        conditions = machine(("torch", "transformers", "serverlessllm"))
        conditions |= {
            "n": {row: len(values) for row, values in samples.items()},
            "model": MODEL,
            "dtype": subject.dtype,
            "weights_bytes": subject.weights.stat().st_size,
            "prompt_tokens": len(prompt_ids),
            "page_cache": "model files dropped (fadvise, checked with mincore) before nvme, imported and fresh",
        }
        report = Report("cold_start", conditions, figures(samples, subject.weights.stat().st_size), AIMS)
    report.print()
    if args.save:
        report.save(HERE / "results")
    return 0


def prompt_ids_of(subject: Subject) -> list[int]:
    """The prompt as the engine gets it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(subject.hf_dir)
    encoded = tokenizer.apply_chat_template(messages(0), add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


if __name__ == "__main__":
    raise SystemExit(main())
