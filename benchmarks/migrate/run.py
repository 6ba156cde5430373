# SPDX-License-Identifier: Apache-2.0
"""What does the client of a stream see when its request moves to another node? See README.md beside this file."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks._harness.report import ROOT, Aim, Report, machine
from benchmarks._harness.stats import median, percentile
from benchmarks._harness.two_nodes import Nodes
from benchmarks.migrate.stream_client import StreamClient
from serverlessllm.wire.migrate import Mode

HERE = Path(__file__).resolve().parent
MODEL = "demo"
ANSWER_TOKENS = 100
"""What 20, 50 and 80 % are of. The answer may go on beyond it: a slow move is to be seen, not cut off."""
SLACK_TOKENS = 400
AROUND_BEFORE, AROUND_AFTER = 2, 8
"""Ids around the handover among which the longest gap is looked for."""
VOCABULARY = range(1000, 30_000)
AIMS = {"p50": Aim("pause_p50_ms", "<=", 60.0), "p99": Aim("pause_p99_ms", "<", 200.0)}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of move."""

    context_tokens: int
    percent: int
    mode: Mode
    is_busy: bool

    @property
    def name(self) -> str:
        """As figures are named."""
        return f"{self.mode}_{self.context_tokens}_{self.percent}pct{'_busy' if self.is_busy else ''}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one move cost its client: the longest gap around the handover less the median ITL before it."""

    case: Case
    pause_ms: float
    gap_ms: float
    itl_ms: float
    itl_p99_ms: float
    preparing_itl_ms: float
    prepare_ms: float
    handover_ms: float
    num_rounds: int
    copied_bytes: int


def cases(args: argparse.Namespace) -> list[Case]:
    """All of them with `--full`; else what the aims ask for, and one busy destination."""
    if not args.full:
        asked = [Case(tokens, 80, mode, False) for tokens in args.contexts for mode in ("recompute", "copy")]
        return [*asked, Case(args.contexts[-1], 80, "recompute", True)]
    return [
        Case(tokens, percent, mode, is_busy)
        for tokens in (*args.contexts, 4000)
        for percent in (20, 50, 80)
        for mode in ("recompute", "copy")
        for is_busy in (False, True)
    ]


def prompt(num_tokens: int, dice: random.Random) -> list[int]:
    """Ids that no node has seen: nothing of them is cached."""
    return [dice.choice(VOCABULARY) for _ in range(max(8, num_tokens))]


def body(num_prompt: int, dice: random.Random, max_tokens: int) -> dict[str, object]:
    """A sampled answer that does not end by itself."""
    return {
        "model": MODEL,
        "prompt": prompt(num_prompt, dice),
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0.8,
        "seed": dice.randrange(1 << 30),
    }


def measure(nodes: Nodes, case: Case, dice: random.Random) -> Sample:
    """One stream, moved once."""
    before = ANSWER_TOKENS * case.percent // 100
    url = nodes.front.url
    stream = StreamClient(url, body(case.context_tokens - before, dice, ANSWER_TOKENS + SLACK_TOKENS))
    with ExitStack() as stack:
        stack.callback(stream.leave)
        stream.wait(2)
        source = nodes.client.request(stream.request_id).request.agent_id
        target = next(agent_id for agent_id in nodes.agent_ids() if agent_id != source)
        if case.is_busy:
            stack.callback(busy(nodes, target, dice))
        stream.wait(before)
        asked_seq = stream.seqs[-1]
        result = nodes.client.move_request(stream.request_id, target, mode=case.mode).result
        if result.state != "moved":
            raise RuntimeError(f"{case.name}: {result.state}: {result.message}")
        stream.wait(stream.seqs[-1] + AROUND_AFTER + 4)
        hop = nodes.client.request(stream.request_id).request.hops[-1]
    quiet = stream.gaps_ms(3, asked_seq)
    around = stream.gaps_ms(hop.seq - AROUND_BEFORE, hop.seq + AROUND_AFTER)
    preparing = stream.gaps_ms(asked_seq + 1, hop.seq) or quiet
    return Sample(
        case,
        pause_ms=max(0.0, max(around) - median(quiet)),
        gap_ms=max(around),
        itl_ms=median(quiet),
        itl_p99_ms=percentile(quiet, 99),
        preparing_itl_ms=median(preparing),
        prepare_ms=result.prepare_ms,
        handover_ms=result.handover_ms,
        num_rounds=result.num_rounds,
        copied_bytes=result.copied_bytes,
    )


def busy(nodes: Nodes, target: str, dice: random.Random) -> Callable[[], None]:
    """A stream that decodes at the destination meanwhile; returns what ends it."""
    other = StreamClient(nodes.front.url, body(64, dice, 2000))
    other.wait(2)
    if nodes.client.request(other.request_id).request.agent_id != target:
        nodes.client.move_request(other.request_id, target)
    return other.leave


def warm(nodes: Nodes, dice: random.Random) -> None:
    """A replica on each node, and each path walked once."""
    for mode in ("recompute", "copy"):
        stream = StreamClient(nodes.front.url, body(200, dice, 300))
        stream.wait(10)
        source = nodes.client.request(stream.request_id).request.agent_id
        target = next(agent_id for agent_id in nodes.agent_ids() if agent_id != source)
        nodes.client.move_request(stream.request_id, target, mode=mode)
        stream.leave()


def figures(samples: list[Sample]) -> dict[str, float]:
    """Of the aims (80 %, up to 2,000 tokens), then by case."""
    found: dict[str, float] = {}
    asked = [s for s in samples if s.case.percent == 80 and s.case.context_tokens <= 2000]
    found["pause_p50_ms"] = median([sample.pause_ms for sample in asked])
    found["pause_p99_ms"] = percentile([sample.pause_ms for sample in asked], 99)
    found["gap_p50_ms"] = median([sample.gap_ms for sample in asked])
    found["itl_p50_ms"] = median([sample.itl_ms for sample in asked])
    found["itl_p99_ms"] = median([sample.itl_p99_ms for sample in asked])
    found["gap_over_itl_p99_ratio"] = found["gap_p50_ms"] / found["itl_p99_ms"]
    found["preparing_itl_over_itl_ratio"] = median([s.preparing_itl_ms / s.itl_ms for s in asked])
    for case in dict.fromkeys(sample.case for sample in samples):
        these = [sample for sample in samples if sample.case == case]
        found[f"{case.name}_pause_p50_ms"] = median([sample.pause_ms for sample in these])
        found[f"{case.name}_pause_max_ms"] = max(sample.pause_ms for sample in these)
        found[f"{case.name}_prepare_ms"] = median([sample.prepare_ms for sample in these])
        found[f"{case.name}_handover_ms"] = median([sample.handover_ms for sample in these])
        found[f"{case.name}_rounds"] = median([float(sample.num_rounds) for sample in these])
        if case.mode == "copy":
            found[f"{case.name}_copied_mib"] = median([sample.copied_bytes / 2**20 for sample in these])
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="moves of each kind")
    parser.add_argument("--contexts", type=int, nargs="+", default=[100, 500, 1000, 2000])
    parser.add_argument("--threads", default="1", help="compute threads of each node's engine")
    parser.add_argument("--model", type=Path, help="a checkpoint; the demo model if left out")
    parser.add_argument("--full", action="store_true", help="every completion, busy and idle, up to 4,000")
    parser.add_argument("--save", action="store_true", help="write the JSON object to results/")
    return parser.parse_args()


def demo_model() -> Path:
    """Fetched once."""
    home = ROOT / ".demo" / "model"
    fetch = [sys.executable, str(ROOT / "scripts" / "fetch_demo_model.py"), str(home)]
    subprocess.run(fetch, check=True, stdout=subprocess.DEVNULL)
    return next(home.glob("*.gguf"))


def main() -> int:
    """Measure, print, save."""
    args = arguments()
    source = args.model or demo_model()
    dice = random.Random(1)
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as home:
        flags = {
            "arena_budget_bytes": "2GiB",
            "engine_threads": args.threads,
            "engine_max_model_len_tokens": "6144",
            "engine_max_num_seqs": "4",
        }
        with Nodes(Path(home), 2, **flags) as nodes:
            nodes.client.add_model(MODEL, str(source), wait=True)
            warm(nodes, dice)
            for _ in range(args.rounds):
                for case in cases(args):
                    sample = measure(nodes, case, dice)
                    samples.append(sample)
                    told = {"pause_ms": round(sample.pause_ms, 1), "prepare_ms": round(sample.prepare_ms, 1)}
                    print(json.dumps({"case": case.name, **told}), flush=True)
    conditions = machine(("torch",)) | {
        "n": len(samples),
        "rounds": args.rounds,
        "threads_per_node": args.threads,
        "answer_tokens": ANSWER_TOKENS,
        "model": source.name,
    }
    report = Report("migrate", conditions, figures(samples), AIMS)
    report.print()
    if args.save:
        print(report.save(HERE / "results"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
