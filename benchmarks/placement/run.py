# SPDX-License-Identifier: Apache-2.0
"""What does a decision cost at 512 agents and 10,000 models? See README.md beside this file."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

import numpy as np

from benchmarks._harness.report import Aim, Report, machine
from benchmarks._harness.stats import percentile
from serverlessllm.clock import SystemClock
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.breakers import Breakers
from serverlessllm.orchestrator.decisions import DecisionRing
from serverlessllm.orchestrator.node_feed import NodeFeed
from serverlessllm.orchestrator.placement.cold import Need, place
from serverlessllm.orchestrator.placement.demand import Demand
from serverlessllm.orchestrator.placement.hot import route
from serverlessllm.orchestrator.placement.nodes import NodeFacts, NodeTable
from serverlessllm.orchestrator.placement.score import DEFAULT_WEIGHTS
from serverlessllm.orchestrator.placement.terms.load import DRAM, NVME
from serverlessllm.orchestrator.prefill_costs import PrefillCosts
from serverlessllm.orchestrator.prompt import Prompt
from serverlessllm.orchestrator.replicas import ReplicaTable
from serverlessllm.orchestrator.routing import Routing
from serverlessllm.telemetry.metrics import OrchestratorMetrics
from serverlessllm.wire import openai
from serverlessllm.wire.events import AgentEvent

HERE = Path(__file__).resolve().parent
NUM_AGENTS: Final = 512
NUM_MODELS: Final = 10_000
NUM_SEATS: Final = 8
NUM_RESTING: Final = 24
MODEL_BYTES: Final = 14_000_000_000
AIMS: Final = {
    "hot": Aim("hot_8_replicas_whole_p50_us", "<", 100.0),
    "hot_512_replicas": Aim("hot_512_replicas_whole_p50_us", "<", 100.0),
    "cold": Aim("cold_p50_ms", "<", 1.0),
}


def build(rng: Random) -> tuple[NodeTable, Demand]:
    """Every agent full: its seats bound, half of them in use, more models in DRAM, a tenth of all on its disk."""
    table, demand = NodeTable(), Demand()
    models = [table.model(f"{index:032x}") for index in range(NUM_MODELS)]
    table.nbytes[: len(models)] = MODEL_BYTES
    for index in range(NUM_AGENTS):
        row = table.row(f"agent-{index}", "gpu0")
        table.put(row, _facts())
        for model in rng.sample(models, NUM_MODELS // 10):
            table.set_tier(row, model, NVME)
        here = rng.sample(models, NUM_SEATS + NUM_RESTING)
        for place_, model in enumerate(here):
            table.set_tier(row, model, DRAM)
            if place_ < NUM_SEATS:
                table.set_bound(row, model, is_busy=place_ % 2 == 0)
    for _ in range(5 * NUM_MODELS):
        demand.note(rng.choice(models), rng.random() * 60)
    return table, demand


def _facts() -> NodeFacts:
    held = (NUM_SEATS + NUM_RESTING) * MODEL_BYTES
    return NodeFacts(
        engines=frozenset({"torch", "simulated"}),
        budget_bytes=held,
        used_bytes=held,
        num_seats=NUM_SEATS,
        remote_bytes_per_s=1e9,
        nvme_bytes_per_s=7e9,
        device_bytes_per_s=25e9,
    )


def cold(table: NodeTable, demand: Demand, rng: Random) -> Callable[[], object]:
    """A decision over all agents, another model each time; every one needs a victim."""
    token_s = np.full(NUM_AGENTS, 0.001)

    def decide() -> object:
        need = Need(table.revision(rng.randrange(NUM_MODELS)), "torch", MODEL_BYTES, True, 200, 0.8)
        return place(
            table, demand, need, excluded=(), token_s=token_s, weights=DEFAULT_WEIGHTS, now_s=60.0, rng=rng
        )

    return decide


def hot(num_replicas: int, rng: Random) -> Callable[[], object]:
    """A decision among so many ready replicas of one model."""
    requests = np.array([float(rng.randrange(40)) for _ in range(num_replicas)])
    same = np.ones(num_replicas)
    failures = np.zeros(num_replicas, dtype=np.int64)

    def decide() -> object:
        return route(
            requests, 32 * same, 0.8 * same, 0.02 * same, 200 * same, 0.001 * same, failures,
            weights=DEFAULT_WEIGHTS, rng=rng,
        )  # fmt: skip

    return decide


def routed(num_replicas: int) -> Callable[[], object]:
    """The same with all that a request pays for it: gathering the replicas' numbers, cached chunks, the record."""
    clock = SystemClock()
    table, costs, decisions = ReplicaTable(clock), PrefillCosts(), DecisionRing()
    for index in range(num_replicas):
        link = AgentLink(f"http://127.0.0.1:{index + 1}", "secret", clock, _Deaf())
        link.is_alive = True
        table.add(link, "m", "r", index + 1)
    breakers = Breakers(Agents([], "secret", clock, _Deaf()), OrchestratorMetrics())
    routing = Routing(table, costs, decisions, NodeFeed(), lambda: DEFAULT_WEIGHTS, clock, breakers)
    record = ModelRecord(name="m", state="ready", engine="torch", source="/m", created_at_s=0.0, revision="r")
    text = "word " * 160
    body = b'{"model": "m", "messages": [{"role": "user", "content": "' + text.encode() + b'"}]}'
    request = openai.parse_chat(body)
    return lambda: routing.pick(record, Prompt(request, "salt"), "q")


class _Deaf:
    """An observer that does not care."""

    def agent_changed(self, link: AgentLink, event: AgentEvent) -> None: ...

    def agent_lost(self, link: AgentLink) -> None: ...


def timed_s(work: Callable[[], object], times: int) -> list[float]:
    """Seconds of each call, after a few that are not counted."""
    for _ in range(20):
        work()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=2000, help="decisions of each kind (n)")
    parser.add_argument("--save", action="store_true", help="write results/<date>-<commit>-cpu.json")
    args = parser.parse_args()
    rng = Random(0)
    table, demand = build(rng)
    figures = {"arrays_mib": table.nbytes_held / 2**20}
    for num_replicas in (2, 8, NUM_AGENTS):
        taken = timed_s(hot(num_replicas, rng), args.times)
        figures[f"hot_{num_replicas}_replicas_p50_us"] = median(taken) * 1e6
        figures[f"hot_{num_replicas}_replicas_p99_us"] = percentile(taken, 99) * 1e6
        taken = timed_s(routed(num_replicas), args.times)
        figures[f"hot_{num_replicas}_replicas_whole_p50_us"] = median(taken) * 1e6
    taken = timed_s(cold(table, demand, rng), args.times)
    figures |= {"cold_p50_ms": median(taken) * 1e3, "cold_p99_ms": percentile(taken, 99) * 1e3}
    events = timed_s(lambda: table.set_bound(rng.randrange(NUM_AGENTS), 5, is_busy=True), args.times)
    figures["event_p50_us"] = median(events) * 1e6
    conditions = machine(("serverlessllm", "numpy")) | {
        "n": args.times,
        "agents": NUM_AGENTS,
        "models": NUM_MODELS,
        "hot": "the decision alone; whole: with gathering the replicas' numbers, 800 bytes of prompt, and the record",
    }
    report = Report("placement", conditions, figures, AIMS)
    report.print()
    if args.save:
        report.save(HERE / "results")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
