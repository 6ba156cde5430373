# SPDX-License-Identifier: Apache-2.0
"""What does following hundreds of agents cost one orchestrator? See README.md beside this file."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks._harness.report import Aim, Report, machine
from benchmarks._harness.stats import median
from benchmarks.agents.swarm import MODEL, REVISION, address
from benchmarks.proxy.cpu_time import cpu_ns
from benchmarks.proxy.subjects import free_port, process
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import AgentRecord, ModelRecord, encode
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from serverlessllm.wire import WIRE_VERSION

HERE = Path(__file__).resolve().parent
START_S = 120.0
AIMS = {"500 agents": Aim("core_share_ratio", "<", 0.2)}


async def register(data: Path, count: int, port: int) -> None:
    """Put the agents into the store, as they themselves would."""
    data.mkdir(parents=True)
    store = await SqliteStore.open(data / "metadata.sqlite")
    model = ModelRecord(
        name=MODEL,
        state="ready",
        engine="torch",
        source="/bench",
        created_at_s=1.0,
        revision=REVISION,
        keep_alive_s=1e9,
    )
    await store.put(Keys.model(MODEL), encode(model))
    for number in range(count):
        record = AgentRecord(
            id=f"a{number}",
            address=address(number, port),
            wire_version=WIRE_VERSION,
            devices=("cpu",),
            engines=("torch",),
            memory_bytes=1 << 30,
        )
        await store.put(Keys.agent(record.id), encode(record))
    await store.close()


def until_alive(url: str, count: int) -> None:
    """Wait until the orchestrator follows every agent. Raises RuntimeError when it does not."""
    deadline_s = time.monotonic() + START_S
    with Client(url) as client:
        while (num := sum(view.is_alive for view in client.agents())) < count:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"only {num} of {count} agents are followed")
            time.sleep(0.5)


def shares(pid: int, rounds: int, seconds: float) -> list[float]:
    """Share of one core that the process uses, per round."""
    found = []
    for number in range(rounds):
        before_ns, began_s = cpu_ns(pid), time.monotonic()
        time.sleep(seconds)
        found.append((cpu_ns(pid) - before_ns) / 1e9 / (time.monotonic() - began_s))
        print(f"round {number + 1}/{rounds}  {found[-1]:.3f} of a core", flush=True)
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure, print the report; save it if asked to."""
    parser = argparse.ArgumentParser(prog="sllm bench agents", description=__doc__)
    parser.add_argument("--agents", type=int, default=500)
    parser.add_argument("--deltas", type=int, default=20, help="changes of each agent's cache per second")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--save", action="store_true", help="keep the figures in results/")
    args = parser.parse_args(arguments)
    with ExitStack() as stack:
        home, port = Path(stack.enter_context(TemporaryDirectory(prefix="sllm-agents-"))), free_port()
        asyncio.run(register(home / "front", args.agents, port))
        argv = [sys.executable, "-m", "benchmarks.agents.swarm"]
        argv += [str(args.agents), str(port), str(args.deltas)]
        stack.enter_context(process(argv, home / "swarm.log"))
        server = LocalServer(home / "front", command="orchestrator", env={"SLLM_SECRET": "benchmark"})
        stack.enter_context(server)
        until_alive(server.url, args.agents)
        found = shares(server.pid, args.rounds, args.seconds)
    share = median(found)
    events_per_s = args.agents * (args.deltas + 1)
    figures = {
        "core_share_ratio": share,
        "core_share_worst_ratio": max(found),
        "events_per_s": events_per_s,
        "cpu_per_event_us": share * 1e6 / events_per_s,
    }
    conditions = machine(("uvloop", "httptools", "msgspec"))
    conditions |= {"n": args.rounds, "agents": args.agents, "deltas_per_s": args.deltas}
    report = Report(
        "What does following hundreds of agents cost one orchestrator?", conditions, figures, AIMS
    )
    report.print()
    if args.save:
        print(f"saved {report.save(HERE / 'results')}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
